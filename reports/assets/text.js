// Texts and elements. What comes from a run is only ever set as text, never read as markup.

const SHOWN = 20000; // characters of a text that are shown without being asked for

// The same rule as `visible` in evalkit/reports/text.py.
const CONTROLS =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]/gu;

function visible(text) {
  return text.replaceAll("\r\n", "\n").replace(CONTROLS, picture);
}

function picture(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return code === 0x7f ? "␡" : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

function oneLine(text) {
  return visible(text).split(/\s+/).join(" ").trim();
}

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A text of a run in its own direction. */
function bdi(text) {
  return el("bdi", {}, oneLine(text));
}

/** A text of any length: long ones are cut, with a button that shows all. */
function longText(text) {
  const box = el("pre", { dir: "auto", tabIndex: 0 });
  if (text.length <= SHOWN) {
    box.textContent = visible(text);
    return box;
  }
  box.textContent = visible(text.slice(0, SHOWN)) + "…";
  const button = el("button", { type: "button" }, `Show all ${text.length.toLocaleString("en")} characters`);
  button.onclick = () => {
    box.textContent = visible(text);
    button.remove();
    box.focus();
  };
  return el("div", {}, box, button);
}

function percent(fraction, digits = 1) {
  return (100 * fraction).toFixed(digits);
}
