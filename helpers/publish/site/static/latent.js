"use strict";
// The latent plane: codes of test digits as a map, and the decoder's picture of the point that is chosen.
(() => {
  const maps = Suite.data("maps"), part = (id) => document.getElementById(id), reading = new Map();
  const plane = part("plane"), board = plane.getContext("2d"), decoded = part("decoded"), picture = decoded.getContext("2d");
  const sliders = [part("first"), part("second")];
  const hues = [205, 28, 140, 0, 270, 30, 320, 220, 60, 185], lights = [45, 50, 38, 48, 58, 32, 55, 70, 42, 50];
  let z = [0, 0];
  const shade = (digit) => `hsl(${hues[digit]} 65% ${lights[digit]}%)`;
  const chosen = () => maps[Number(part("model").value)];

  function read(map) {  // decoded when first shown
    if (!reading.has(map.id)) {
      const codes = Suite.floats(map.codes), reach = [...codes].map(Math.abs).sort((a, b) => a - b)[Math.floor(0.995 * codes.length)];
      const layers = map.decoder?.map((layer) => ({ shape: layer.shape, weight: Suite.halves(layer.weight), bias: Suite.halves(layer.bias) }));
      reading.set(map.id, { codes, reach, layers, gridCodes: Suite.floats(map.grid_codes), grid: Suite.bytes(map.grid) });
    }
    return reading.get(map.id);
  }

  function decode(layers, code) {  // a ReLU between two layers, none after the last
    return layers.reduce((input, { shape: [rows, columns], weight, bias }, number) => {
      const output = new Float32Array(rows);
      for (let row = 0; row < rows; row += 1) {
        let sum = bias[row];
        for (let column = 0; column < columns; column += 1) sum += weight[row * columns + column] * input[column];
        output[row] = number < layers.length - 1 ? Math.max(0, sum) : sum;
      }
      return output;
    }, Float32Array.from(code));
  }

  function drawPlane() {
    const map = chosen(), { codes, reach, gridCodes, layers } = read(map), size = plane.width;
    const at = (value, flip) => size * (0.5 + (flip ? -1 : 1) * value / (2 * reach));
    board.fillStyle = Suite.colour("paper");
    board.fillRect(0, 0, size, size);
    board.strokeStyle = Suite.colour("hair");
    board.beginPath();
    board.moveTo(at(0), 0); board.lineTo(at(0), size); board.moveTo(0, at(0)); board.lineTo(size, at(0)); board.stroke();
    map.labels.forEach((digit, index) => {
      board.fillStyle = shade(digit);
      board.fillRect(at(codes[2 * index]) - 1.5, at(codes[2 * index + 1], true) - 1.5, 3, 3);
    });
    if (!layers) {
      board.fillStyle = Suite.colour("text");
      for (let index = 0; index < gridCodes.length; index += 2) board.fillRect(at(gridCodes[index]) - 1, at(gridCodes[index + 1], true) - 1, 3, 3);
    }
    board.strokeStyle = Suite.colour("text");
    board.lineWidth = 2;
    board.beginPath();
    board.arc(at(z[0]), at(z[1], true), 9, 0, 2 * Math.PI);
    board.stroke();
  }

  function drawDecoded() {
    const map = chosen(), { layers, gridCodes, grid } = read(map), pixels = map.side ** 2;
    let values;
    if (layers) {
      values = decode(layers, z).map((value) => 255 * Math.min(1, Math.max(0, value)));
      part("source").textContent = "Decoded in this page.";
    } else {
      let nearest = 0, least = Infinity;
      for (let index = 0; 2 * index < gridCodes.length; index += 1) {
        const distance = (gridCodes[2 * index] - z[0]) ** 2 + (gridCodes[2 * index + 1] - z[1]) ** 2;
        if (distance < least) [least, nearest] = [distance, index];
      }
      values = grid.subarray(pixels * nearest, pixels * (nearest + 1));
      part("source").textContent = `Recorded picture of the nearest code, (${Suite.short(gridCodes[2 * nearest])}, ${Suite.short(gridCodes[2 * nearest + 1])}).`;
    }
    const image = new ImageData(map.side, map.side);
    for (let index = 0; index < pixels; index += 1) image.data.set([values[index], values[index], values[index], 255], 4 * index);
    [decoded.width, decoded.height] = [map.side, map.side];
    picture.putImageData(image, 0, 0);
  }

  function moveTo(code) {
    const { reach } = read(chosen());
    z = code.map((value) => Math.min(reach, Math.max(-reach, value)));
    sliders.forEach((slider, axis) => { slider.value = z[axis]; });
    part("where").textContent = `z = (${z.map((value) => value.toFixed(2)).join(", ")})`;
    drawPlane();
    drawDecoded();
  }
  function start() {
    const { reach } = read(chosen());
    for (const slider of sliders) { slider.min = -reach; slider.max = reach; }
    moveTo([0, 0]);
  }

  function point(event) {
    const { left, top, width, height } = plane.getBoundingClientRect(), { reach } = read(chosen());
    moveTo([reach * (2 * (event.clientX - left) / width - 1), reach * (1 - 2 * (event.clientY - top) / height)]);
  }
  plane.addEventListener("pointermove", point);
  plane.addEventListener("pointerdown", point);
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const by = read(chosen()).reach / (event.shiftKey ? 10 : 40);
    moveTo([z[0] + by * step[0], z[1] + by * step[1]]);
  });
  sliders.forEach((slider, axis) => slider.addEventListener("input", () => moveTo(z.map((value, index) => (index === axis ? Number(slider.value) : value)))));
  part("model").addEventListener("change", start);
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  for (let digit = 0; digit < 10; digit += 1) {
    const item = document.createElement("li"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = shade(digit);
    item.append(swatch, ` ${digit}`);
    part("digits").append(item);
  }
  Suite.whenColoursChange(drawPlane);
  start();
})();
