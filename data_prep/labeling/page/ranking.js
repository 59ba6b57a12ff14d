// The second screen (figure 12b): all outputs ranked, ties encouraged. Ranks are groups of places,
// best first; what is in no group is still to be ranked.

const unranked = () =>
  S.task.outputs.map((_, place) => place).filter((place) => groupOf(place) < 0);
const groupOf = (place) => S.answer.groups.findIndex((group) => group.includes(place));
const ranksOf = (groups, n) =>
  Array.from({ length: n }, (_, place) => groups.findIndex((group) => group.includes(place)) + 1);

function rankScreen() {
  const open = unranked();
  const groups = S.answer.groups;
  return el(
    "div",
    { class: "two ranks" },
    reading(
      "Prompt",
      S.task.prompt,
      el("h2", {}, open.length ? `To rank: ${open.length}` : "All are ranked"),
      el("div", { class: "tray", "data-drop": "tray" }, open.map(card)),
    ),
    el(
      "section",
      { class: "ranking", "data-drop": "gap:" + groups.length },
      el("h2", { tabindex: "-1", class: "here", "data-drop": "gap:0" }, "Ranking, best first"),
      groups.length
        ? null
        : el("p", { class: "empty" }, "Press digits from best to worst, or drag here."),
      el("ol", { class: "groups" }, groups.flatMap(groupRow)),
    ),
  );
}

function groupRow(group, at) {
  const gap = (i) => el("li", { class: "gap", "data-drop": "gap:" + i, "aria-hidden": "true" });
  const words =
    group.length > 1 ? ["Rank " + (at + 1), el("small", {}, "tie")] : "Rank " + (at + 1);
  const row = el(
    "li",
    { class: "group", "data-drop": "tie:" + at },
    el("span", { class: "rank" }, words),
    el("div", { class: "cards" }, group.map(card)),
  );
  return at === 0 ? [gap(0), row, gap(1)] : [row, gap(at + 1)];
}

// One output; the element stays the same while it moves, with what was unfolded in it.
function card(place) {
  const made = S.cards[place] || (S.cards[place] = newCard(place));
  const at = groupOf(place);
  made.setAttribute("aria-label", outputName(place) + ", " + rankWords(place));
  made.setAttribute("tabindex", S.selected === place ? "0" : "-1");
  made.classList.toggle("selected", S.selected === place);
  const last = S.answer.groups.length - 1;
  const size = at < 0 ? 0 : S.answer.groups[at].length;
  const disabled = {
    up: at < 0 || (at === 0 && size === 1),
    down: at < 0 || (at === last && size === 1),
    tie: at < 0 || (last === 0 && size === 1),
    off: at < 0,
    last: at >= 0,
  };
  for (const tool of made.querySelectorAll("[data-tool]"))
    tool.disabled = disabled[tool.dataset.tool];
  find("[data-tool=tie]", made).setAttribute("aria-pressed", String(size > 1));
  return made;
}

function newCard(place) {
  const name = outputName(place);
  const tool = (what, sign, words, act) =>
    el(
      "button",
      {
        type: "button",
        class: "tool",
        "data-tool": what,
        "aria-label": `${words}: ${name}`,
        title: words,
        onclick: () => act(place),
      },
      sign,
    );
  const head = el(
    "header",
    { class: "handle" },
    el("span", { class: "grip", "aria-hidden": "true" }, "⠿"),
    el("kbd", { "aria-hidden": "true" }, String(place + 1)),
    el("span", { class: "name" }, name, ...judged(place)),
    el(
      "span",
      { class: "tools" },
      tool("last", "+ rank", "Rank next", rankNext),
      tool("up", "↑", "Better", (p) => step(p, -1)),
      tool("down", "↓", "Worse", (p) => step(p, 1)),
      tool("tie", "=", "Tie with the one above, or end the tie", tie),
      tool("off", "×", "Take out of the ranking", takeOut),
    ),
  );
  const made = el(
    "article",
    { class: "card", role: "group", onclick: (event) => cardClicked(event, place) },
    head,
    textBox(S.task.outputs[place], name),
  );
  head.addEventListener("pointerdown", (event) => beginDrag(event, place, made));
  return made;
}

// what was said of it alone, as a reminder
function judged(place) {
  const quality = S.answer.quality[place];
  const flags = S.answer.flags[place].length;
  return [
    quality === null ? null : el("small", {}, ` quality ${quality}`),
    flags ? el("small", { class: "flagged" }, ` ${flags} ticked`) : null,
  ].filter(Boolean);
}

function cardClicked(event, place) {
  if (!event.target.closest("button")) select(place);
}

function rankWords(place) {
  const at = groupOf(place);
  if (at < 0) return "not ranked yet";
  const others = S.answer.groups[at].filter((p) => p !== place).map((p) => p + 1);
  const tied = others.length ? `, tied with output ${others.join(" and ")}` : "";
  return `rank ${at + 1} of ${S.answer.groups.length}${tied}`;
}

function select(place) {
  S.selected = place;
  render();
  S.cards[place].focus();
}

// The one way that a card moves: {tie: group}, {gap: before which group} or {} for out.
function move(place, to) {
  change(() => {
    const groups = S.answer.groups.map((group) => group.filter((p) => p !== place));
    if (to.tie !== undefined) groups[to.tie] = [...groups[to.tie], place].sort((a, b) => a - b);
    if (to.gap !== undefined) groups.splice(to.gap, 0, [place]);
    S.answer.groups = groups.filter((group) => group.length);
    S.selected = place;
  });
  S.cards[place].focus();
  say(`${outputName(place)}: ${rankWords(place)}`);
}

const rankNext = (place) => move(place, { gap: S.answer.groups.length });
const takeOut = (place) => move(place, {});

// One step better or worse: out of a tie first, then past the neighbour.
function step(place, by) {
  const at = groupOf(place);
  if (at < 0) return rankNext(place);
  const tied = S.answer.groups[at].length > 1;
  const gap = tied ? at + (by > 0) : by < 0 ? at - 1 : at + 2;
  if (gap >= 0 && gap <= S.answer.groups.length) move(place, { gap });
}

function tie(place) {
  const at = groupOf(place);
  if (at < 0) return;
  if (S.answer.groups[at].length > 1) move(place, { gap: at + 1 });
  else if (at > 0) move(place, { tie: at - 1 });
  else if (S.answer.groups.length > 1) move(place, { tie: 1 });
}

function choose(by) {
  const inOrder = [...S.answer.groups.flat(), ...unranked()];
  const at = S.selected === null ? (by > 0 ? -1 : inOrder.length) : inOrder.indexOf(S.selected);
  select(inOrder[Math.max(0, Math.min(inOrder.length - 1, at + by))]);
}

function rankKeys(key) {
  const place = Number(key) - 1;
  if (/^[1-9]$/.test(key) && place < S.task.outputs.length) {
    if (groupOf(place) < 0) rankNext(place);
    else select(place);
  } else if (key === "ArrowRight" || key === "ArrowLeft") choose(key === "ArrowRight" ? 1 : -1);
  else if (key === "Enter") saveRanking();
  else if (key === "b" && !S.about.ranking_only) goTo("each", S.task.outputs.length - 1);
  else if (S.selected === null) return false;
  else if (key === "ArrowUp" || key === "ArrowDown") step(S.selected, key === "ArrowUp" ? -1 : 1);
  else if (key === "=") tie(S.selected);
  else if (key === "Backspace" || key === "Delete") takeOut(S.selected);
  else return false;
  return true;
}

function saveRanking() {
  const open = unranked();
  if (open.length) return say(`Still to rank: ${open.map((p) => outputName(p)).join(", ")}.`, true);
  save(rankingAnswer(), saveRanking);
}

function rankingAnswer() {
  const ranks = ranksOf(S.answer.groups, S.task.outputs.length);
  return { ranks, quality: S.answer.quality, flags: S.answer.flags };
}

// Two outputs: better, equal, worse.

const PAIR = { 1: [[0], [1]], "=": [[0, 1]], 2: [[1], [0]] };

function pairScreen() {
  const side = (place) =>
    el(
      "section",
      { class: "side" },
      el(
        "h2",
        {},
        el("kbd", { "aria-hidden": "true" }, String(place + 1)),
        " " + outputName(place),
        judged(place),
      ),
      textBox(S.task.outputs[place], outputName(place)),
    );
  const choice = (key, words) =>
    keyed(words, key, () => choosePair(key), {
      class: "button choice",
      "aria-pressed": String(JSON.stringify(S.answer.groups) === JSON.stringify(PAIR[key])),
    });
  return el(
    "div",
    { class: "pair" },
    reading("Prompt", S.task.prompt),
    el("h2", { tabindex: "-1", class: "here" }, "Which is better?"),
    el("div", { class: "sides" }, side(0), side(1)),
    el(
      "div",
      { class: "choices", role: "group", "aria-label": "Which is better?" },
      choice("1", "Output 1 is better"),
      choice("=", "Equal"),
      choice("2", "Output 2 is better"),
    ),
  );
}

function choosePair(key) {
  change(() => (S.answer.groups = PAIR[key]));
  say({ 1: "Output 1 is better", "=": "Equal", 2: "Output 2 is better" }[key]);
}

function pairKeys(key) {
  if (PAIR[key]) choosePair(key);
  else if (key === "Enter") savePair();
  else if (key === "b" && !S.about.ranking_only) goTo("each", S.task.outputs.length - 1);
  else return false;
  return true;
}

function savePair() {
  if (!S.answer.groups.length) return say("Choose first: 1, 2 or = for equal.", true);
  save(rankingAnswer(), savePair);
}
