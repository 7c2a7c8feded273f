// Reading single counts off the chart. The values come from the data table's own cells, so the two cannot differ,
// and they are only ever set as text. Everything else on the page works without this script.
(() => {
  "use strict";
  const find = (id) => document.getElementById(id);
  const [chart, canvas, probe, tip, hair, spot] = ["chart", "canvas", "probe", "tip", "hair", "spot"].map(find);
  if (!chart) return;
  const table = find("points");
  const keys = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
  // The table has the most tokens first; the chart's x axis, and with it the right arrow key, has them last.
  const points = [...table.tBodies[0].rows].reverse().map((row) => ({
    row, x: parseFloat(row.dataset.x), y: parseFloat(row.dataset.y), role: row.dataset.role || "",
  })).filter((point) => Number.isFinite(point.x));
  if (!points.length) return;
  const phone = matchMedia("(max-width: 46rem)");
  const start = Math.max(0, points.findIndex((point) => point.role.includes("chosen")));
  let current = points.some((point) => point.role.includes("chosen")) ? start : points.length - 1;

  const valuesOf = (row) => Object.fromEntries(keys.map((key, i) => [key, row.cells[i].textContent.trim()]));
  const within = (range) => (range ? ` (${range})` : "");

  function lines(value) {
    const measure = table.dataset.measure;
    const found = [];
    if (value.median) {
      found.push(["latency", `${value.median} ms${within(value.low === "–" ? "" : `${value.low} to ${value.high}`)}`]);
      found.push(["samples", `${value.samples} in ${value.blocks} block${value.blocks === "1" ? "" : "s"}`]);
      found.push(["stopped", value.stop]);
      found.push(["efficient", value.efficient === "yes" ? "yes" : "no, a larger count is as fast"]);
    }
    if (value.quality) {
      found.push([measure, `${value.quality} %${within(value["quality-interval"])}`]);
      found.push(["drop", `${value.drop} points${within(value["drop-interval"])}`]);
    }
    return found;
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function fill(tokens, role, found) {
    const list = document.createElement("dl");
    for (const [name, text] of found) list.append(element("dt", name), element("dd", text));
    const heading = [element("strong", `${tokens} tokens`)];
    if (role) heading.push(" ", element("span", role, "role"));
    tip.replaceChildren(...heading, list);
  }

  function place(point) {
    hair.style.left = spot.style.left = `${point.x}%`;
    spot.style.top = `${point.y}%`;
    const area = canvas.getBoundingClientRect();
    const frame = chart.getBoundingClientRect();
    const across = area.left - frame.left + (point.x / 100) * area.width;
    const down = area.top - frame.top + ((Number.isFinite(point.y) ? point.y : 10) / 100) * area.height;
    const width = tip.offsetWidth;
    const left = across + 18 + width <= frame.width ? across + 18 : across - 18 - width;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, down - tip.offsetHeight / 2)}px`;
  }

  function show(index, marked = true) {
    current = Math.min(points.length - 1, Math.max(0, index));
    const point = points[current];
    const value = valuesOf(point.row);
    const found = lines(value);
    fill(value.tokens, point.role, found);
    tip.hidden = false;
    hair.hidden = !marked;
    spot.hidden = !marked || !Number.isFinite(point.y);
    place(point);
    probe.setAttribute("aria-valuenow", value.tokens);
    probe.setAttribute("aria-valuetext", [`${value.tokens} tokens`, point.role, ...found.map((line) => line.join(" "))]
      .filter(Boolean).join(", "));
  }

  // A phone keeps the values on screen, at the choice unless another count is touched: nothing jumps.
  function rest() {
    if (phone.matches) return;
    tip.hidden = hair.hidden = spot.hidden = true;
  }

  function nearest(clientX) {
    const area = canvas.getBoundingClientRect();
    const x = ((clientX - area.left) / area.width) * 100;
    let low = 0;
    let high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle].x < x) low = middle; else high = middle;
    }
    return x - points[low].x < points[high].x - x ? low : high;
  }

  const moves = {
    ArrowRight: () => current + 1, ArrowUp: () => current + 1, ArrowLeft: () => current - 1, ArrowDown: () => current - 1,
    PageUp: () => current + 10, PageDown: () => current - 10, Home: () => 0, End: () => points.length - 1,
  };
  probe.addEventListener("keydown", (event) => {
    if (event.key === "Escape") rest();
    if (!moves[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(moves[event.key]());
  });
  for (const kind of ["pointermove", "pointerdown"]) {
    probe.addEventListener(kind, (event) => show(nearest(event.clientX)));
  }
  probe.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && document.activeElement !== probe) rest();
  });
  probe.addEventListener("focus", () => show(current));
  probe.addEventListener("blur", rest);
  const settle = () => (phone.matches ? show(current, false) : rest());
  phone.addEventListener("change", settle);

  const counts = points.map((point) => point.row.cells[0].textContent.trim());
  probe.setAttribute("aria-valuemin", counts[0]);
  probe.setAttribute("aria-valuemax", counts[counts.length - 1]);
  show(current, false);
  settle();
  probe.hidden = find("hint").hidden = false;
})();
