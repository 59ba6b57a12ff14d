// Keys of every screen, and the list of them that is shown.

const KEYS = {
  each: [
    ["1 – 7", "quality"],
    ["a b c …", "tick a question"],
    ["← →", "another output"],
    ["Enter", "next"],
  ],
  rank: [
    ["1 – 9", "rank this output next; choose it when it is ranked"],
    ["↑ ↓", "move it better or worse"],
    ["=", "tie it with the one above, or end its tie"],
    ["← →", "choose another"],
    ["Backspace", "take it out of the ranking"],
    ["b", "back to the single outputs"],
    ["Enter", "save"],
  ],
  pair: [
    ["1", "the first is better"],
    ["2", "the second is better"],
    ["=", "equal"],
    ["b", "back to the single outputs"],
    ["Enter", "save"],
  ],
  write: [["Ctrl + Enter", "save"]],
  all: [
    ["u", "undo a step, or go back to your last item"],
    ["s", "skip with a reason"],
    ["i", "instructions and keys"],
  ],
};

function keyList(screen) {
  const isThere = ([key]) => key !== "b" || !S.about.ranking_only;
  const rows = [...(KEYS[screen] || []).filter(isThere), ...KEYS.all];
  return el(
    "dl",
    { class: "keylist" },
    rows.map(([key, words]) =>
      el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)),
    ),
  );
}

const typing = (target) =>
  Boolean(target.closest("textarea, select, input:not([type=radio]):not([type=checkbox])"));

// Whether the instructions lie over the work: what is not seen is not pressed.
const covered = () => find(".drawer").open && !matchMedia("(min-width: 1100px)").matches;

function pressed(event) {
  const target = event.target instanceof Element ? event.target : document.body;
  if (!S.task && !["u", "i", "Escape"].includes(event.key)) return;
  if (find(".page").hidden || find(".ask").open) return;
  // what is being dragged belongs to this item: it is dropped before another comes
  if (find(".page").classList.contains("dragging")) return;
  if (event.key === "Enter" && event.ctrlKey && S.screen === "write" && !covered()) {
    event.preventDefault();
    return saveWriting();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(target)) return;
  // of a control that has the focus, these are its own
  if (event.key === "Enter" && target.closest("button, summary, a")) return;
  if (event.key.startsWith("Arrow") && target.closest("input")) return;
  // held down, a key would rank or save again and again
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  // a long text that has the focus scrolls
  const scrolls = target.closest(".text");
  if (scrolls && /^Arrow(Up|Down)$/.test(event.key) && scrolls.scrollHeight > scrolls.clientHeight)
    return;
  if (covered() && !["i", "Escape"].includes(event.key)) return;
  if (S.busy ? false : ofScreen(event.key) || ofAll(event.key)) event.preventDefault();
}

function ofScreen(key) {
  if (S.screen === "each") return eachKeys(key);
  if (S.screen === "rank") return rankKeys(key);
  if (S.screen === "pair") return pairKeys(key);
  return false;
}

function ofAll(key) {
  if (key === "u") undo();
  else if (key === "s" && S.task) askToSkip();
  else if (key === "i") toggleDrawer();
  else if (key === "Escape" && find(".drawer").open) toggleDrawer();
  else return false;
  return true;
}
