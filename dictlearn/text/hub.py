"""Whether the Hugging Face hub answers."""

PATIENCE = 2.0
"""Seconds within which it must answer."""


def why_no_hub() -> str:
    """The reason why the hub does not answer; empty if it does.

    It is asked once: its libraries repeat every request for half a minute before they give up.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # of the HTTP library, which differs between versions
        return f"{constants.ENDPOINT} does not answer: {error}"
    return ""
