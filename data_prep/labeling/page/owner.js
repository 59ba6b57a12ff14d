// The owner's view: progress, agreement, disagreements side by side, export.

const percent = (share) => (100 * share).toFixed(1) + " %";

document.addEventListener("label-owner", () => openView());

async function openView() {
  const board = document.querySelector("#label-board .page");
  board.hidden = true;
  find(".owner").hidden = false;
  fill(
    find(".menu"),
    button("Look again", () => look()),
    button("Export", () => exportRows(), { class: "button primary" }),
    button("Back to labeling", () => {
      find(".owner").hidden = true;
      board.hidden = false;
    }),
  );
  await look();
  find("h1").focus();
}

async function look() {
  await attempt("Counting …", async () => {
    const seen = await ask("overview");
    fill(find(".work"), numbers(seen), people(seen), skipped(seen), disagreements(seen));
    return "";
  });
}

// The rows as the command exports them, saved by the browser.
async function exportRows() {
  await attempt("Exporting …", async () => {
    const { name, rows, n, left_out } = await ask("export");
    const url = URL.createObjectURL(new Blob([rows], { type: "application/jsonl" }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    const but = left_out ? `; left out: ${counted(left_out, "answer")} to screening items` : "";
    return `${counted(n, "row")}: ${name}${but}`;
  });
}

const counted = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

async function attempt(doing, act) {
  find(".saved").textContent = doing;
  fill(find(".trouble"));
  try {
    find(".saved").textContent = await act();
  } catch (error) {
    find(".saved").textContent = "";
    fill(find(".trouble"), error.message);
  }
}

function numbers(seen) {
  const { done, left, items } = seen.progress;
  const rows = [
    ["Items", String(items)],
    ["Answers", `${done}, ${left} to come`],
  ];
  if (seen.agreement) {
    const { pairwise, alpha } = seen.agreement;
    rows.push([
      "Pairwise agreement",
      pairwise ? rateWords(pairwise) : "no item was ranked by two people yet",
    ]);
    rows.push(["Krippendorff's alpha, ranks", alphaWords(alpha.ranks)]);
    if (alpha.quality !== null)
      rows.push(["Krippendorff's alpha, quality", alphaWords(alpha.quality)]);
  }
  const row = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  return el("dl", { class: "numbers" }, rows.map(row));
}

const alphaWords = (alpha) => (alpha === null ? "not yet" : alpha.toFixed(3));

function rateWords({ rate, low, high, n_pairs }) {
  const interval = low === null ? "" : ` (95 %: ${percent(low)} to ${percent(high)})`;
  return `${percent(rate)} of ${n_pairs} pairs${interval}`;
}

function table(heads, rows, label) {
  // on a narrow screen each cell stands under its own heading
  for (const row of rows) [...row.cells].forEach((cell, i) => (cell.dataset.head = heads[i]));
  return el(
    "div",
    { class: "wide", tabindex: "0", role: "group", "aria-label": label },
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          heads.map((words) => el("th", { scope: "col", dir: "auto" }, words)),
        ),
      ),
      el("tbody", {}, rows),
    ),
  );
}

const cells = (values) => values.map((value) => el("td", {}, value));

function people(seen) {
  const heads = ["Labeler", "Done", "Skipped", "Left", "Time each"];
  if (seen.agreement) heads.push("Agrees with others", "Agrees with screening");
  const row = (one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", dir: "auto" }, one.name),
      cells([one.done, one.skipped, one.left].map(String)),
      el("td", {}, one.seconds_per_item ? Math.round(one.seconds_per_item) + " s" : "–"),
      seen.agreement ? agrees(seen.agreement, one.name) : null,
    );
  return el(
    "section",
    {},
    el("h2", {}, "Labelers"),
    seen.labelers.length
      ? table(heads, seen.labelers.map(row), "Labelers")
      : el("p", { class: "quiet" }, "Nobody has taken an item yet."),
    seen.agreement && seen.agreement.by_pair.length > 1 ? byPair(seen.agreement.by_pair) : null,
  );
}

// soft: the owner decides (appendix B.1)
function agrees({ by_labeler, cutoff }, name) {
  const found = Object.hasOwn(by_labeler, name) ? by_labeler[name] : {};
  const words = [
    found.screening ? `ranks ${percent(found.screening.rate)} of ${found.screening.n_pairs}` : null,
    found.screening_flags
      ? `flags ${percent(found.screening_flags.rate)} of ${found.screening_flags.n}`
      : null,
    found.below_cutoff ? `below ${Math.round(100 * cutoff)} %` : null,
  ].filter(Boolean);
  return [
    el(
      "td",
      {},
      found.others ? `${percent(found.others.rate)} of ${found.others.n_pairs} pairs` : "–",
    ),
    el("td", { class: found.below_cutoff ? "below" : "" }, words.join(", ") || "–"),
  ];
}

function byPair(pairs) {
  const row = ({ labelers, rate, n_pairs }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", dir: "auto" }, labelers.join(" and ")),
      cells([percent(rate), String(n_pairs)]),
    );
  return el(
    "details",
    {},
    el("summary", {}, "Agreement of each two labelers"),
    table(["Labelers", "Agreement", "Pairs"], pairs.map(row), "Agreement of each two labelers"),
  );
}

// Reasons are a labeler's words: text nodes, as all others.
function skipped({ skips, progress }) {
  if (!skips.length) return null;
  const row = ({ item, prompt, labeler, reason }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, String(item)),
      [labeler, reason, prompt].map((words) => el("td", { class: "said", dir: "auto" }, words)),
    );
  const more = skips.length < progress.skipped;
  return el(
    "section",
    {},
    el("h2", {}, "Skipped items"),
    more ? el("p", { class: "quiet" }, `The latest ${skips.length} of ${progress.skipped}.`) : null,
    table(["Item", "Labeler", "Reason", "Prompt"], skips.map(row), "Skipped items"),
  );
}

function disagreements(seen) {
  if (!seen.agreement) return null;
  const found = seen.agreement.disagreements;
  return el(
    "section",
    {},
    el("h2", {}, "Where labelers disagree"),
    found.length ? found.map(disagreement) : el("p", { class: "quiet" }, "Nowhere so far."),
  );
}

function disagreement({ item, prompt, prompt_note, outputs, answers, opposed, pairs }, i) {
  const row = ({ text, note }, output) =>
    el(
      "tr",
      {},
      el(
        "td",
        { class: "output" },
        textBox(text, `Output ${output + 1} of item ${item}`),
        cutNote(note),
      ),
      answers.map((answer) => el("td", { class: "given" }, given(answer, output))),
    );
  return el(
    "details",
    { open: i === 0 },
    el("summary", {}, `Item ${item}: ${opposed} of ${pairs} pairs the other way round`),
    promptBox(prompt),
    cutNote(prompt_note),
    table(
      ["Output", ...answers.map((answer) => answer.labeler)],
      outputs.map(row),
      `Ranks of item ${item}`,
    ),
  );
}

const cutNote = (words) => (words ? el("p", { class: "quiet" }, words) : null);

function given({ ranks, quality }, output) {
  const value = quality ? quality[output] : null;
  return [
    el("strong", {}, "rank " + ranks[output]),
    value === null ? "" : el("small", {}, ` quality ${value}`),
  ];
}
