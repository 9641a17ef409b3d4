"use strict";
// The GANs' page: the curves of all runs, a slider over the updates, and a table that follows it.
(() => {
  const gans = Suite.data("gans"), part = (id) => document.getElementById(id), log = part("log");
  const last = Math.max(...gans.map((gan) => gan.done)), slider = part("updates");
  const lines = (chosen, values) => chosen.map((gan) => ({ label: gan.id, term: gan.id, x: gan.steps, y: gan[values], pale: false, colour: gans.indexOf(gan) }));
  function panel(title, chosen, values) {
    const later = chosen.flatMap((gan) => gan[values].slice(1)).filter((value) => value !== null);
    const low = Math.min(...later), high = Math.max(...later), margin = 0.1 * (high - low) || 1;
    return { title, across: "generator updates", series: lines(chosen, values), levels: [], focus: [low - margin, high + margin] };
  }
  const charts = [];
  const add = (id, title, chosen, values) => {
    if (chosen.length) charts.push(Suite.chart(part(id), panel(title, chosen, values), { height: 260, tools: false, log }));
    else part(id).hidden = true;
  };
  add("fid", "Fréchet distance", gans, "fid");
  add("jsd", "JSD", gans.filter((gan) => gan.metric === "jsd"), "held_out");
  add("w1", "W1", gans.filter((gan) => gan.metric === "w1"), "held_out");

  gans.forEach((gan, index) => {
    const label = document.createElement("label"), input = document.createElement("input"), swatch = document.createElement("span");
    Object.assign(input, { type: "checkbox", checked: true });
    swatch.className = "swatch";
    swatch.style.background = `var(--series-${(index % 6) + 1})`;
    label.append(input, swatch, gan.id);
    part("runs").append(label);
    input.addEventListener("change", () => {
      charts.forEach((chart) => chart.show(gan.id, input.checked));
      document.querySelectorAll(`[data-samples="${gan.id}"], [data-run="${gan.id}"]`).forEach((shown) => { shown.hidden = !input.checked; });
    });
  });

  function move() {
    const updates = Number(slider.value);
    part("reached").textContent = `${updates.toLocaleString("en")} updates`;
    slider.setAttribute("aria-valuetext", part("reached").textContent);
    charts.forEach((chart) => chart.mark(updates));
    for (const gan of gans) {  // the last evaluation that had been made by then
      const index = gan.steps.findLastIndex((step) => step <= updates), cells = document.querySelector(`[data-run="${gan.id}"]`).cells;
      const values = [gan.steps[index].toLocaleString("en"), Suite.short(gan.fid[index]), Suite.short(gan.held_out[index])];
      values.forEach((value, column) => { cells[column + 2].textContent = value; });
    }
  }
  slider.max = last;
  slider.value = last;
  slider.addEventListener("input", move);
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  move();
})();
