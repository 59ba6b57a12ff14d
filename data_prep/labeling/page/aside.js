// Beside an item: the instructions, and the reasons for leaving it out.

const SKIP_REASONS = [
  "I do not understand what the user wants",
  "I know too little about this to judge",
  "It is in a language that I do not read",
  "It contains personal data",
  "I do not want to read this",
];

function toggleDrawer() {
  const drawer = find(".drawer");
  if (drawer.open) {
    remember(S.about.instructions);
    drawer.close();
    return find(".here")?.focus({ preventScroll: true });
  }
  fill(
    drawer,
    keyed("Close", "i", toggleDrawer, { class: "button close" }),
    el("h2", { id: "label-instructions-title", tabindex: "-1" }, "Instructions"),
    markdown(S.about.instructions),
    el("h3", {}, "Keys"),
    keyList(S.screen),
  );
  // a wide window has room beside it: one may read and go on
  drawer.show();
  find("h2", drawer).focus({ preventScroll: true });
}

function remembered() {
  try {
    return localStorage.getItem("label-instructions-read");
  } catch {
    return null;
  }
}

function remember(text) {
  try {
    localStorage.setItem("label-instructions-read", text);
  } catch {
    // a browser without storage, or a megabyte of text: they open again next time
  }
}

function askToSkip() {
  const dialog = find(".ask");
  const reason = el("textarea", { rows: 3, maxlength: 2000, dir: "auto" });
  const missing = el("p", { class: "missing", role: "alert" });
  const leave = (words) => {
    if (!words.trim()) {
      missing.textContent = "Write the reason, or choose one above.";
      return reason.focus();
    }
    dialog.close();
    skip(words);
  };
  // the hand that opened this may press the next key at once: nothing has the focus yet; a digit
  // chooses a reason, what else is typed begins one
  const title = { id: "label-skip-title", tabindex: "-1", autofocus: true };
  dialog.onkeydown = (event) => {
    if (event.key === "Enter" && event.ctrlKey) return leave(reason.value);
    const isTyped = event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!isTyped || event.repeat || event.target === reason) return;
    const words = SKIP_REASONS[Number(event.key) - 1];
    if (words) leave(words);
    // a blank presses the button that has the focus
    else if (event.key !== " ") reason.focus();
  };
  fill(
    dialog,
    el("h2", title, "Why skip this item?"),
    el(
      "div",
      { class: "reasons" },
      SKIP_REASONS.map((words, i) => keyed(words, String(i + 1), () => leave(words))),
    ),
    el("label", { class: "area" }, el("span", {}, "Another reason"), reason),
    missing,
    el(
      "div",
      { class: "buttons" },
      button("Do not skip", () => dialog.close()),
      keyed("Skip", "Ctrl+Enter", () => leave(reason.value), { class: "button primary" }),
    ),
  );
  dialog.showModal();
}
