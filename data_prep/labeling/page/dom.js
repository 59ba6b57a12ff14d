// Elements and text. Text of prompts, outputs and people becomes text nodes, never markup.

const FOLD = 12000; // characters of a text that are laid out at once; a megabyte takes seconds

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

const find = (selector, within = element) => within.querySelector(selector);

function fill(target, ...children) {
  target.replaceChildren(...children.flat().filter((child) => child !== null));
}

// A text to read: it scrolls in its box, its own direction stays inside, and what is very long is
// folded until asked for.
function textBox(text, label) {
  const long = text.length > FOLD;
  const words = el(
    "div",
    { class: "words", dir: "auto" },
    long ? text.slice(0, FOLD) + " …" : text,
  );
  const box = el(
    "div",
    { class: "text", role: "group", "aria-label": label, tabindex: "0" },
    words,
  );
  if (!text) fill(words, el("em", { class: "quiet" }, "(empty)"));
  if (!long) return box;
  const more = button(`Show all ${text.length.toLocaleString("en")} characters`, () => {
    words.textContent = text;
    more.remove();
    box.focus();
  });
  return el("div", {}, box, more);
}

function button(words, act, attributes = {}) {
  return el("button", { type: "button", class: "button", onclick: act, ...attributes }, words);
}

function keyed(words, key, act, attributes = {}) {
  return button([words + " ", el("kbd", { "aria-hidden": "true" }, key)], act, {
    "aria-keyshortcuts": key,
    ...attributes,
  });
}

// A prompt: who says what. One message of a user's needs no name.
function promptBox(messages) {
  if (!messages.length) return el("p", { class: "quiet" }, "No prompt: write one of your own.");
  if (messages.length === 1) return textBox(messages[0].content, "Prompt");
  return el("div", { class: "turns" }, messages.map(turn));
}

// The prompt under its heading, and what else is read.
function reading(words, messages, ...more) {
  return el("section", { class: "reading" }, el("h2", {}, words), promptBox(messages), ...more);
}

function turn(message) {
  const name = message.role;
  return el(
    "div",
    { class: "turn" },
    el("span", { class: "role" }, name),
    textBox(message.content, name),
  );
}

// Markdown of the instructions, the little that they use; a link is its words and its address.
function markdown(text) {
  const made = [];
  for (const block of text.split(/\n{2,}/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    if (!lines.length) continue;
    const heading = /^(#{1,4}) +(.*)$/.exec(lines[0]);
    // the page has its own first heading
    if (heading) made.push(el("h" + Math.min(heading[1].length + 1, 4), {}, inline(heading[2])));
    const rest = heading ? lines.slice(1) : lines;
    if (rest.length && rest.every((line) => /^ *([-*]|\d+[.)]) |^ {2,}/.test(line)))
      made.push(list(rest));
    else if (rest.length) made.push(el("p", {}, inline(rest.join(" "))));
  }
  return made;
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    const item = /^ *(?:[-*]|\d+[.)]) (.*)$/.exec(line);
    // a line that goes on
    if (item) items.push(item[1]);
    else items.push((items.pop() || "") + " " + line.trim());
  }
  return el(
    /^ *\d/.test(lines[0]) ? "ol" : "ul",
    {},
    items.map((item) => el("li", {}, inline(item))),
  );
}

function inline(text) {
  const plain = text.replace(/\[([^\]]*)\]\(([^)]*)\)/g, "$1 ($2)");
  return plain.split(/(\*\*[^*]+\*\*|\*[^*]+\*|`[^`]+`)/).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    if (/^\*.+\*$/.test(part)) return el("em", {}, part.slice(1, -1));
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    return part;
  });
}
