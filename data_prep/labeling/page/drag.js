// Dragging by pointer events: mouse, pen and finger alike. A card on a group is a tie, between two
// groups a rank of its own, on the tray no rank.

const EDGE = 70; // pixels from the window's edge where it scrolls

function beginDrag(event, place, made) {
  if (event.button !== 0 || event.target.closest("button")) return;
  const start = { x: event.clientX, y: event.clientY };
  const drag = { place, made, ghost: null, over: null, x: start.x, y: start.y };
  const handle = event.currentTarget;
  handle.setPointerCapture(event.pointerId);

  const moved = (event) => {
    [drag.x, drag.y] = [event.clientX, event.clientY];
    // a click is not a drag
    if (!drag.ghost && Math.hypot(drag.x - start.x, drag.y - start.y) < 6) return;
    if (!drag.ghost) lift(drag);
    follow(drag);
  };
  const end = (event) => {
    handle.removeEventListener("pointermove", moved);
    document.removeEventListener("keydown", escaped, true);
    for (const name of ["pointerup", "pointercancel"]) handle.removeEventListener(name, end);
    if (drag.ghost) drop(drag, event && event.type === "pointerup");
  };
  const escaped = (event) => {
    if (event.key === "Escape") end(null);
  };
  handle.addEventListener("pointermove", moved);
  for (const name of ["pointerup", "pointercancel"]) handle.addEventListener(name, end);
  document.addEventListener("keydown", escaped, true);
}

function lift(drag) {
  const { width } = drag.made.getBoundingClientRect();
  drag.ghost = el("div", { class: "ghost", "aria-hidden": "true" }, outputName(drag.place));
  drag.ghost.style.width = Math.min(width, 320) + "px";
  find(".page").append(drag.ghost);
  find(".page").classList.add("dragging");
  drag.made.classList.add("lifted");
  drag.timer = setInterval(() => scrollAtEdge(drag), 16);
}

function follow(drag) {
  drag.ghost.style.transform = `translate(${drag.x + 8}px, ${drag.y + 8}px)`;
  const under = document.elementFromPoint(drag.x, drag.y);
  const over = under && element.contains(under) ? under.closest("[data-drop]") : null;
  if (over === drag.over) return;
  drag.over?.classList.remove("over");
  over?.classList.add("over");
  drag.over = over;
}

function scrollAtEdge(drag) {
  const below = drag.y > innerHeight - EDGE;
  if (below || drag.y < EDGE) {
    scrollBy(0, below ? 12 : -12);
    follow(drag);
  }
}

function drop(drag, counts) {
  clearInterval(drag.timer);
  drag.ghost.remove();
  drag.made.classList.remove("lifted");
  drag.over?.classList.remove("over");
  find(".page").classList.remove("dragging");
  if (!counts || !drag.over) return;
  const [what, at] = drag.over.dataset.drop.split(":");
  const to = what === "tray" ? {} : { [what]: Number(at) };
  const from = groupOf(drag.place);
  if (what === "tray" ? from >= 0 : what !== "tie" || from !== to.tie) move(drag.place, to);
}
