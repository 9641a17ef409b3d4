"use strict";
// The slider through the layers of a planar flow: the density as a grey-blue map, the points over it.
(() => {
  const flows = Suite.data("flows"), part = (id) => document.getElementById(id);
  const canvas = part("picture"), context = canvas.getContext("2d"), slider = part("stage"), reading = new Map();
  let place = 0, timer = null;  // `place` runs over the stages and may lie between two while the picture moves

  function read(flow) {  // decoded when first shown
    if (!reading.has(flow.id)) {
      const points = Suite.halves(flow.points), densities = Suite.bytes(flow.densities);
      reading.set(flow.id, {
        points: flow.depths.map((_, stage) => points.subarray(2 * flow.count * stage, 2 * flow.count * (stage + 1))),
        densities: flow.depths.map((_, stage) => densities.subarray(flow.cells ** 2 * stage, flow.cells ** 2 * (stage + 1))),
      });
    }
    return reading.get(flow.id);
  }
  const chosen = () => flows[Number(part("flow").value)];
  const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

  function draw() {
    const flow = chosen(), { points, densities } = read(flow), size = canvas.width;
    const before = Math.floor(place), after = Math.min(before + 1, flow.depths.length - 1), share = place - before;
    const mixed = (values) => (1 - share) * values[before] + share * values[after];
    const half = mixed(flow.half_widths), nearest = Math.round(place);
    context.fillStyle = Suite.colour("paper");
    context.fillRect(0, 0, size, size);
    if (part("density").checked) {
      const map = new ImageData(flow.cells, flow.cells), low = channels(Suite.colour("paper")), high = channels(Suite.colour("series-1"));
      densities[nearest].forEach((value, index) => {  // row 0 is the lowest
        const target = 4 * ((flow.cells - 1 - Math.floor(index / flow.cells)) * flow.cells + (index % flow.cells));
        const weight = Math.sqrt(value / 255);
        for (let channel = 0; channel < 3; channel += 1) map.data[target + channel] = low[channel] + weight * (high[channel] - low[channel]);
        map.data[target + 3] = 255;
      });
      const small = new OffscreenCanvas(flow.cells, flow.cells);
      small.getContext("2d").putImageData(map, 0, 0);
      const width = size * flow.half_widths[nearest] / half;
      context.imageSmoothingEnabled = true;
      context.drawImage(small, (size - width) / 2, (size - width) / 2, width, width);
    }
    if (part("points").checked) {
      context.fillStyle = Suite.colour("series-2");
      for (let index = 0; index < flow.count; index += 1) {
        const [x, y] = [0, 1].map((axis) => (1 - share) * points[before][2 * index + axis] + share * points[after][2 * index + axis]);
        context.fillRect(size * (0.5 + x / (2 * half)) - 2, size * (0.5 - y / (2 * half)) - 2, 4, 4);
      }
    }
    part("where").textContent = `${flow.depths[nearest]} of ${flow.layers} layers`;
    slider.setAttribute("aria-valuetext", part("where").textContent);
    part("scale").textContent = `The square reaches from ${Suite.short(-half)} to ${Suite.short(half)} on both axes; the density is scaled to its maximum`
      + (flow.every ? "." : "; these depths are shown, not every layer.");
    canvas.setAttribute("aria-label", `${flow.count} points and the density after ${flow.depths[nearest]} of ${flow.layers} layers, data ${flow.data}`);
  }

  function moveTo(stage) {
    clearInterval(timer);
    slider.value = stage;
    if (Suite.calm()) { place = stage; draw(); return; }
    const from = place, started = performance.now();
    const step = (now) => {
      if (Number(slider.value) !== stage) return;
      const done = Math.min(1, (now - started) / 350);
      place = from + (stage - from) * done * done * (3 - 2 * done);
      draw();
      if (done < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  function start() { slider.max = chosen().depths.length - 1; slider.value = 0; place = 0; clearInterval(timer); draw(); }
  slider.addEventListener("input", () => moveTo(Number(slider.value)));
  part("flow").addEventListener("change", start);
  for (const id of ["points", "density"]) part(id).addEventListener("change", draw);
  part("play").addEventListener("click", () => {
    let stage = Number(slider.value) === Number(slider.max) ? 0 : Number(slider.value);
    const next = () => { moveTo(stage); stage += 1; if (stage <= Number(slider.max)) timer = setTimeout(next, 800); };
    next();
  });
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  Suite.whenColoursChange(draw);
  start();
})();
