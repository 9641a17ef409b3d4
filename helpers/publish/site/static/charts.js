"use strict";
// Shared by the pages with pictures: data of the page, colours of the stylesheet, curves with uPlot.
document.documentElement.classList.add("js");
const Suite = {
  data: (id) => JSON.parse(document.getElementById(id).textContent),
  colour: (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),
  series: (index) => Suite.colour(`series-${(index % 6) + 1}`),
  whenColoursChange: (draw) => matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw),
  calm: () => matchMedia("(prefers-reduced-motion: reduce)").matches,

  // Arrays that a page holds in base64, little end first as every browser's machine has them.
  bytes: (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)),
  floats: (text) => new Float32Array(Suite.bytes(text).buffer),
  halves(text) {
    return Float32Array.from(new Uint16Array(Suite.bytes(text).buffer), (bits) => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
  },

  short(value) {
    if (value === null || value === undefined) return "-";
    const size = Math.abs(value);
    return size >= 1e5 || (size && size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(5)));
  },

  // One picture of curves in a figure: boxes for the terms, log scale, zoom by dragging and by buttons, levels as lines.
  // Returns an object with `mark(x)`, a vertical line, and `show(term, on)`.
  chart(figure, panel, { height = 300, tools = true, log = null } = {}) {
    const terms = [...new Set(panel.series.map((line) => line.term))];
    const hidden = new Set();
    const board = document.createElement("div"), bar = document.createElement("div"), levels = document.createElement("ul");
    bar.className = "tools";
    levels.className = "levels";
    let plot = null, logarithmic = false, marked = null, view = { x: null, y: panel.focus };
    const positive = () => panel.series.some((line) => line.y.some((value) => value > 0));
    const colourOf = (line) => Suite.series(line.colour ?? terms.indexOf(line.term));

    function levelLines(u) {
      const { ctx, bbox } = u;
      ctx.save();
      ctx.lineWidth = devicePixelRatio * 1.2;
      panel.levels.forEach((level, index) => {
        const y = u.valToPos(level.value, "y", true);
        if (!(y >= bbox.top && y <= bbox.top + bbox.height)) return;
        ctx.strokeStyle = Suite.colour(index ? "quiet" : "text");
        ctx.setLineDash([6 * devicePixelRatio, (3 + 2 * index) * devicePixelRatio]);
        ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
      });
      if (marked !== null) {
        const x = u.valToPos(marked, "x", true);
        ctx.strokeStyle = Suite.colour("link");
        ctx.setLineDash([]);
        ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      }
      ctx.restore();
    }

    function draw() {
      plot?.destroy();
      const lines = panel.series.filter((line) => !hidden.has(line.term));
      board.replaceChildren();
      if (!lines.length) return;
      const usable = (value) => (logarithmic && !(value > 0) ? null : value);
      const joined = uPlot.join(lines.map((line) => [line.x, line.y.map(usable)]));
      const axis = { stroke: Suite.colour("quiet"), grid: { stroke: Suite.colour("hair"), width: 1 }, ticks: { stroke: Suite.colour("hair") } };
      const written = (u, values) => values.map((value) => (value === null ? "" : Suite.short(value)));
      plot = new uPlot({
        width: Math.max(220, board.clientWidth), height,
        cursor: { drag: { x: true, y: true, uni: 20 }, focus: { prox: 24 } },
        focus: { alpha: 0.35 },
        legend: { show: lines.length <= 8, live: true },
        scales: {
          x: { time: false, ...(view.x ? { range: view.x } : {}) },
          y: { distr: logarithmic ? 3 : 1, ...(view.y && !logarithmic ? { range: view.y } : {}) },
        },
        axes: [{ ...axis, label: panel.across, labelSize: 24, size: 36, values: written },
               { ...axis, size: 66, values: written }],
        series: [{ label: panel.across }, ...lines.map((line) => ({
          label: line.label, stroke: colourOf(line) + (line.pale ? "99" : ""), width: line.pale ? 1 : 2, spanGaps: true,
          dash: line.dash, points: { show: !line.pale && line.x.length <= 60, size: 4 },
          value: (u, value) => Suite.short(value),
        }))],
        hooks: {
          draw: [levelLines],
          setSelect: [(u) => {
            if (u.select.width < 8 && u.select.height < 8) return;
            const [left, right] = [u.select.left, u.select.left + u.select.width].map((place) => u.posToVal(place, "x"));
            const [top, bottom] = [u.select.top, u.select.top + u.select.height].map((place) => u.posToVal(place, "y"));
            view = { x: u.select.width >= 8 ? [left, right] : view.x, y: u.select.height >= 8 && u.select.height < u.over.clientHeight ? [bottom, top] : view.y };
            queueMicrotask(draw);
          }],
        },
      }, joined, board);
      plot.over.addEventListener("dblclick", () => { view = { x: null, y: panel.focus }; queueMicrotask(draw); });
    }

    function button(text, label, action) {
      const element = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      element.setAttribute("aria-label", label);
      element.addEventListener("click", () => { action(); draw(); });
      bar.append(element);
    }
    function box(text, checked, action, colour) {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "checkbox", checked });
      input.addEventListener("change", () => { action(input.checked); draw(); });
      label.append(input);
      if (colour !== undefined) {
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = `var(--series-${(colour % 6) + 1})`;
        label.append(swatch);
      }
      label.append(text);
      bar.append(label);
      return input;
    }
    const window_ = (name) => { const { min, max } = plot.scales[name]; return [min, max]; };
    const zoom = (factor) => {
      if (!plot) return;
      const [low, high] = window_("x"), middle = (low + high) / 2, half = factor * (high - low) / 2;
      view.x = [middle - half, middle + half];
    };
    const shift = (share) => { if (plot) { const [low, high] = window_("x"), by = share * (high - low); view.x = [low + by, high + by]; } };

    if (tools) {
      terms.forEach((term, index) => box(term, true, (on) => (on ? hidden.delete(term) : hidden.add(term)), index));
      if (positive()) box("log scale", false, (on) => { logarithmic = on; });
      button("+", `Zoom into ${panel.title}`, () => zoom(0.5));
      button("−", `Zoom out of ${panel.title}`, () => zoom(2));
      button("←", `Earlier, ${panel.title}`, () => shift(-0.25));
      button("→", `Later, ${panel.title}`, () => shift(0.25));
      button("whole", `Whole range of ${panel.title}`, () => { view = { x: null, y: null }; });
      button("reset", `First view of ${panel.title}`, () => { view = { x: null, y: panel.focus }; });
      figure.append(bar);
    }
    figure.append(board);
    panel.levels.forEach((level) => {
      const item = document.createElement("li"), swatch = document.createElement("span");
      swatch.className = "swatch dashed";
      item.append(swatch, ` ${level.label}`);
      levels.append(item);
    });
    if (panel.levels.length) figure.append(levels);
    log?.addEventListener("change", () => { logarithmic = log.checked; draw(); });
    Suite.whenColoursChange(draw);
    let width = 0;
    new ResizeObserver(() => { if (board.clientWidth !== width) { width = board.clientWidth; draw(); } }).observe(board);
    return {
      mark(x) { marked = x; plot?.redraw(false, false); },
      show(term, on) { if (on) hidden.delete(term); else hidden.add(term); draw(); },
    };
  },
};
