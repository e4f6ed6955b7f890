"""Whether the Hugging Face hub answers."""

import threading

PATIENCE = 2.0
"""Seconds within which it must answer."""


def why_no_hub() -> str:
    """The reason why the hub does not answer; empty if it does.

    It is asked once: its libraries repeat every request for half a minute before they give up. It
    is asked in a thread, since no timeout of a request ends the search for an address.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    reasons = [f"no answer within {PATIENCE:g} seconds"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            reasons.append("")
        except Exception as error:  # of the HTTP library, which differs between versions
            reasons.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    reason = reasons[-1]
    return reason and f"{constants.ENDPOINT} does not answer: {reason}"
