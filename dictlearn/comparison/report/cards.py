"""Feature cards as HTML: contexts shaded by activation, logit weights and similar features."""

from collections.abc import Sequence
from html import escape

from dictlearn.comparison.report.page import note, section
from dictlearn.records.features import (
    Context,
    FeatureCard,
    FeatureRecords,
    Neighbor,
    TokenWeight,
)

# Shades are transparent, so that they suit light and dark backgrounds.
CARDS_STYLE = """
.cards { display: grid; gap: 14px; margin: 14px 0; }
.card { border: 1px solid rgba(128, 134, 145, 0.3); border-radius: 8px; padding: 12px 16px 14px;
  min-width: 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
.card h3 { font-size: 16px; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
.card .facts, .card h4, .card .of { opacity: 0.72; font-size: 13px; }
.card .facts { margin: 0 0 8px; }
.card h4 { font-weight: 600; line-height: 1.3; margin: 0 0 4px; }
.card ol, .card ul { list-style: none; margin: 0; padding: 0; }
.card .contexts li { display: grid; grid-template-columns: 3.6em minmax(0, 1fr); gap: 10px;
  padding: 3px 0; border-top: 1px solid rgba(128, 134, 145, 0.16); margin: 0; }
.card .of { font-variant-numeric: tabular-nums; text-align: right; padding-top: 1px; }
.card .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.card .text span { border-radius: 3px; padding: 1px 0;
  background: rgba(230, 159, 0, calc(var(--a) * 0.6)); }
.card .text .minus { background: rgba(0, 140, 210, calc(var(--a) * 0.6)); }
.card .text .peak { box-shadow: inset 0 -2px 0 currentColor; }
.card i { font-style: normal; opacity: 0.45; }
.card .parts { display: grid; gap: 12px 24px; margin-top: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); }
.card .parts > div { min-width: 0; }
.card .parts li { display: flex; gap: 8px; align-items: baseline; margin: 0; padding: 1px 8px;
  background: linear-gradient(to right, var(--bar) calc(var(--a) * 100%), transparent 0)
  no-repeat; }
.card .up { --bar: rgba(230, 159, 0, 0.28); }
.card .down { --bar: rgba(0, 140, 210, 0.28); }
.card .near { --bar: rgba(128, 134, 145, 0.22); }
.card .parts code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; flex: 1; background: none; color: inherit; }
.card .none { opacity: 0.72; font-size: 13px; margin: 0; }
"""

_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u200b": "∅"}


def feature_card_html(card: FeatureCard) -> str:
    """The card as an HTML element, to be used with `CARDS_STYLE`."""
    facts = f"active at {_percent(card.density)} of tokens"
    if card.contexts:
        facts += f", up to {_number(card.strength)}"
    strongest = max((abs(a) for c in card.contexts for a in c.activations), default=0.0)
    contexts = "".join(_context(context, strongest) for context in card.contexts)
    if not contexts:
        contexts = '<li class="none">No positive activation on these tokens.</li>'
    return (
        f'<article class="card"><h3>{escape(card.dictionary)} {card.feature}</h3>'
        f'<p class="facts">{escape(facts)}</p><ol class="contexts">{contexts}</ol>'
        f'<div class="parts">{_logits(card)}{_nearest(card.nearest)}</div></article>'
    )


def cards_html(records: FeatureRecords) -> str:
    """All cards with their style sheet, for a notebook."""
    cards = "".join(map(feature_card_html, records.cards))
    left_out = "".join(note(f"{name}: {why}.") for name, why in records.left_out.items())
    return f'<style>{CARDS_STYLE}</style><div class="cards">{cards}</div>{left_out}'


def cards_section(records: FeatureRecords) -> str:
    """The report's section with the cards of all dictionaries; those of the first are expanded."""
    text = (
        "Top activating contexts of each feature, at most one per sequence. The shade of a token "
        "is the activation of the feature, relative to the largest on the card; hover for the "
        "number. The token with the maximum is underlined. Orange is positive, blue negative. "
        "Promoted and suppressed tokens have the largest and smallest logit weights: the direct "
        "effect of the feature on the logits, not including later layers. Features: "
        f"{records.tokens.get('chosen', 'by name')}."
    )
    parts: list[str] = []
    for name in dict.fromkeys(card.dictionary for card in records.cards):
        cards = [card for card in records.cards if card.dictionary == name]
        inside = "".join(map(feature_card_html, cards))
        state = "" if parts else " open"
        parts.append(
            f"<details{state}><summary><b>{escape(name)}</b>: {_count(len(cards))}</summary>"
            f'<div class="cards">{inside}</div></details>'
        )
    left_out = [note(f"{name} has no cards: {why}.") for name, why in records.left_out.items()]
    style = f"<style>{CARDS_STYLE}</style>"
    return section("Features to look at", style, note(text), *parts, *left_out)


def _context(context: Context, strongest: float) -> str:
    spans = []
    for i, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        peak = i == context.peak
        if not activation and not peak:
            spans.append(_shown(token))
            continue
        classes = " ".join(
            name for name, holds in (("minus", activation < 0), ("peak", peak)) if holds
        )
        of_class = f' class="{classes}"' if classes else ""
        shade = abs(activation) / strongest if strongest else 0.0
        spans.append(
            f'<span{of_class} style="--a:{shade:.3f}" title="{_number(activation)}">'
            f"{_shown(token) or '<i>·</i>'}</span>"
        )
    return (
        f'<li title="sequence {context.sequence}"><span class="of">{_number(context.strength)}'
        f'</span><span class="text">{"".join(spans)}</span></li>'
    )


def _shown(token: str) -> str:
    """The escaped text of a token, with invisible characters replaced by pale symbols."""
    if token and not token.strip(" "):
        return " " if len(token) == 1 else f"<i>{'·' * len(token)}</i>"
    return "".join(f"<i>{_VISIBLE[c]}</i>" if c in _VISIBLE else _printable(c) for c in token)


def _printable(character: str) -> str:
    if character == " " or character.isprintable():
        return escape(character)
    return f"<i>{ord(character):02x}</i>"


def _logits(card: FeatureCard) -> str:
    if card.promoted is None or card.suppressed is None:
        why = escape(card.no_logits or "unknown")
        return f'<div><h4>Logit weights</h4><p class="none">None: {why}.</p></div>'
    largest = max((abs(w.weight) for w in [*card.promoted, *card.suppressed]), default=0.0)
    return _weights("Promoted", "up", card.promoted, largest) + _weights(
        "Suppressed", "down", card.suppressed, largest
    )


def _weights(heading: str, kind: str, weights: Sequence[TokenWeight], largest: float) -> str:
    items = "".join(
        _bar(_token(w.token), w.weight, abs(w.weight) / largest if largest else 0.0)
        for w in weights
    )
    return f'<div class="{kind}"><h4>{heading}</h4><ul>{items}</ul></div>'


def _token(token: str) -> str:
    """The escaped text of a single token, with a visible leading space."""
    if not token.startswith(" "):
        return _shown(token)
    return f"<i>·</i>{_shown(token[1:])}"


def _nearest(neighbors: Sequence[Neighbor]) -> str:
    if not neighbors:
        return ""
    items = "".join(
        _bar(escape(f"{n.dictionary} {n.feature}"), n.cosine, max(n.cosine, 0.0)) for n in neighbors
    )
    return f'<div class="near"><h4>Nearest elsewhere (cosine)</h4><ul>{items}</ul></div>'


def _bar(label: str, value: float, length: float) -> str:
    return (
        f'<li style="--a:{min(length, 1.0):.3f}"><code>{label}</code>'
        f'<span class="of">{value:+.2f}</span></li>'
    )


def _count(n: int) -> str:
    return f"{n} feature{'' if n == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"
