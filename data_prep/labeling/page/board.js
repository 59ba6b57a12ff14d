// The board: what a labeler is asked, one item after the other.

const TITLES = { rankings: "Rank", judgements: "Judge", demonstrations: "Write" };
const STEPS = 200; // of undo that are kept

// about: the project; task: the item; answer: what was entered; history: before each step
const S = {
  about: null,
  task: null,
  answer: null,
  screen: "loading",
  at: 0,
  selected: null,
  cards: {},
  history: [],
  earlier: false,
  busy: false,
};

const outputName = (place) => "Output " + (place + 1);
const comparing = () => (S.task.outputs.length === 2 ? "pair" : "rank");

async function begin() {
  document.addEventListener("keydown", pressed);
  addEventListener("pagehide", clock.keep);
  await showMine();
  // once for each text: who has read it is not asked again
  if (S.about && remembered() !== S.about.instructions) toggleDrawer();
}

// Whoever is logged in by now, and what is his.
async function showMine() {
  try {
    S.about = await ask("state");
  } catch (error) {
    return trouble(error.message, showMine);
  }
  saved("");
  find(".title").textContent = TITLES[S.about.kind];
  find(".who").textContent = S.about.labeler;
  fill(
    find(".menu"),
    keyed("Instructions", "i", toggleDrawer),
    S.about.is_owner ? ownersButton() : null,
  );
  show(S.about);
}

function ownersButton() {
  return button("Owner's view", () => document.dispatchEvent(new CustomEvent("label-owner")));
}

function show({ task, progress, short = S.about.short }) {
  S.about.short = short;
  working(false);
  showProgress(progress);
  Object.assign(S, { task, cards: {}, history: [], selected: null, at: 0 });
  if (!task) S.screen = "finished";
  else if (S.about.kind === "demonstrations") S.screen = "write";
  else S.screen = S.about.ranking_only || task.previous ? comparing() : "each";
  S.answer = task && (draft.find(task) || earlierAnswer(task));
  // of any item, not of this tab alone: only the server knows what lies before
  S.earlier = progress.done + progress.skipped > 0;
  clock.start(task);
  trouble("");
  if (task?.skipped) say(`You left this out: ${task.skipped}`);
  else say(task?.previous ? "You saved this before: what you save now counts." : "");
  render();
  scrollTo(0, 0);
  find(".here")?.focus({ preventScroll: true });
}

function earlierAnswer(task) {
  if (S.about.kind === "demonstrations") return writingOf(task);
  const empty = (value) => task.outputs.map(() => value());
  const { ranks, quality, flags } = task.previous || {};
  return {
    quality: quality || empty(() => null),
    flags: flags || empty(() => []),
    groups: ranks ? groupsOf(ranks) : [],
  };
}

function groupsOf(ranks) {
  const groups = Array.from({ length: Math.max(...ranks) }, () => []);
  ranks.forEach((rank, place) => groups[rank - 1].push(place));
  return groups;
}

function showProgress({ done, skipped, left, seconds_per_item }) {
  const bar = find(".done progress");
  bar.max = done + skipped + left || 1;
  bar.value = done + skipped;
  const each = seconds_per_item ? ` · ${spokenSeconds(seconds_per_item)} each` : "";
  const skips = skipped ? ` · ${skipped} skipped` : "";
  find(".counts").textContent = `${done} done${skips} · ${left} left${each}`;
}

function spokenSeconds(seconds) {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

////////////////
// What is on the screen
////////////////

const SCREENS = {
  each: eachScreen,
  rank: rankScreen,
  pair: pairScreen,
  write: writeScreen,
  finished: finishedScreen,
};

function render() {
  const scrolled = Object.values(S.cards).map((made) => [
    find(".text", made),
    find(".text", made).scrollTop,
  ]);
  find(".page").dataset.screen = S.screen;
  const kept = focusKey();
  fill(find(".work"), SCREENS[S.screen]());
  refocus(kept);
  // an element that moves forgets how far it was scrolled
  for (const [box, top] of scrolled) box.scrollTop = top;
  renderSteps();
  renderBar();
}

// A field that is drawn anew keeps the focus.
function focusKey() {
  const { name, value, type } = document.activeElement || {};
  return type === "radio" || type === "checkbox" ? { name, value } : null;
}

function refocus(kept) {
  if (!kept) return;
  const fields = [...find(".work").querySelectorAll("input")];
  fields
    .find((field) => field.name === kept.name && field.value === kept.value)
    ?.focus({ preventScroll: true });
}

function renderSteps() {
  const nav = find(".steps");
  nav.hidden = !S.task || !S.task.outputs || S.about.ranking_only;
  if (nav.hidden) return;
  const step = (words, here, done, act) =>
    button(words, act, {
      class: "button step" + (done ? " is-done" : ""),
      "aria-current": here ? "step" : false,
    });
  const outputs = S.task.outputs.map((_, place) => {
    const quality = S.answer.quality[place];
    const words = [
      el("span", { class: "long" }, "Output "),
      String(place + 1),
      quality === null ? null : el("small", {}, ` · ${quality}/7`),
    ].filter(Boolean);
    return step(words, S.screen === "each" && S.at === place, quality !== null, () =>
      goTo("each", place),
    );
  });
  const compare = step(
    comparing() === "pair" ? "Compare" : "Rank all",
    S.screen === comparing(),
    false,
    toComparing,
  );
  fill(nav, outputs, compare);
}

function toComparing() {
  const open = S.answer.quality.indexOf(null);
  if (open < 0) return goTo(comparing());
  goTo("each", open);
  say(`${outputName(open)} has no quality yet.`, true);
}

function renderBar() {
  const forward = {
    each: () => keyed("Next", "Enter", nextOutput, { class: "button primary" }),
    rank: () => keyed("Save", "Enter", saveRanking, { class: "button primary" }),
    pair: () => keyed("Save", "Enter", savePair, { class: "button primary" }),
    write: () => keyed("Save", "Ctrl+Enter", saveWriting, { class: "button primary" }),
  }[S.screen];
  fill(
    find(".actions"),
    keyed(S.history.length ? "Undo step" : "Back to last item", "u", undo, {
      disabled: !S.history.length && !S.earlier,
    }),
    S.task ? keyed("Skip", "s", askToSkip) : null,
    forward ? forward() : null,
  );
}

function finishedScreen() {
  return el(
    "section",
    { class: "finished" },
    el("h2", { tabindex: "-1", class: "here" }, "Nothing is left for you. Thank you!"),
    el("p", {}, "New rows, or what somebody left, may still come: load the page again to see."),
  );
}

function goTo(screen, at = 0) {
  Object.assign(S, { screen, at });
  render();
  const here = find(".here");
  here?.focus({ preventScroll: true });
  // below a long prompt the output may be out of sight
  if (screen === "each") here?.scrollIntoView({ block: "nearest" });
}

// A step that undo takes back.
function change(act) {
  S.history.push(JSON.stringify([S.answer, S.screen, S.at, S.selected]));
  S.history.splice(0, S.history.length - STEPS);
  act();
  draft.keep(S.task, S.answer);
  say("");
  render();
}

////////////////
// Saved, skipped, undone
////////////////

// by whom and of what this page was opened: both may be others by now
const ofPage = () => ({ labeler: S.about.labeler, database: S.about.database });

// again: makes the answer anew, as it may be changed after a failure
async function save(answer, again) {
  await send("Saving …", "Saved.", again, () =>
    ask("save", { ...ofPage(), item: S.task.item, answer, seconds: clock.seconds() }),
  );
}

async function skip(reason) {
  await send(
    "Skipping …",
    "Skipped.",
    () => skip(reason),
    () => ask("skip", { ...ofPage(), item: S.task.item, reason }),
  );
}

async function send(doing, done, again, request) {
  if (S.busy) return;
  const task = S.task;
  const focused = document.activeElement;
  working(true);
  saved(doing);
  let answer;
  try {
    answer = await request();
  } catch (error) {
    working(false);
    focused?.focus({ preventScroll: true });
    saved("Not saved", true);
    // an answer is to the item that it was entered for, and to no other
    return trouble(error.message, () => S.task === task && again(), error.refused);
  }
  draft.forget(task);
  saved(done);
  show(answer);
}

// While the server is asked, nothing can be entered: it would be shown, and saved nowhere.
function working(is) {
  S.busy = is;
  const page = find(".page");
  if (is) page.setAttribute("aria-busy", "true");
  else page.removeAttribute("aria-busy");
  for (const part of [".steps", ".work", ".actions"]) find(part).inert = is;
}

async function undo() {
  if (S.busy) return;
  if (S.history.length) {
    [S.answer, S.screen, S.at, S.selected] = JSON.parse(S.history.pop());
    draft.keep(S.task, S.answer);
    say("Undone.");
    return render();
  }
  const focused = document.activeElement;
  working(true);
  try {
    const answer = await ask("undo", ofPage());
    saved("");
    show(answer);
  } catch (error) {
    working(false);
    focused?.focus({ preventScroll: true });
    say(error.message, true);
  }
}

function saved(words, failed = false) {
  find(".saved").textContent = words;
  find(".saved").classList.toggle("failed", failed);
}

function say(words, warns = false) {
  const spoken = find(".spoken");
  spoken.textContent = words;
  spoken.classList.toggle("warns", warns);
}

// refused: by the server, which may say so again; what was entered stays in this tab
function trouble(words, again = null, refused = false) {
  const box = find(".trouble");
  if (!words) return fill(box);
  fill(
    box,
    el("span", {}, words),
    again ? button("Try again", () => (trouble(""), again())) : null,
    refused ? button("Leave it, show what is mine now", showMine) : null,
  );
}

begin();
