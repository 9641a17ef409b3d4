"use strict";
// The table of results: a click on a head sorts by that column, a text filters the rows.
document.documentElement.classList.add("js");
(() => {
  const table = document.getElementById("results"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  function sort(column) {
    const ascending = heads[column].getAttribute("aria-sort") !== "ascending";
    const rows = [...body.rows].map((row, place) => ({ row, place, value: valueOf(row, column) }));
    const numbers = rows.every(({ value }) => value === "" || !Number.isNaN(Number(value)));
    rows.sort((one, other) => {
      const empty = (one.value === "" || one.value === "-") - (other.value === "" || other.value === "-");
      if (empty) return empty;  // what has no value stands last, whichever way
      const order = numbers ? one.value - other.value : one.value.localeCompare(other.value, "en", { numeric: true });
      return (ascending ? order : -order) || one.place - other.place;
    });
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows.map(({ row }) => row));
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column));
    head.replaceChildren(button);
  });

  const filter = document.getElementById("filter"), shown = document.getElementById("shown");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let number = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      number += !row.hidden;
    }
    shown.textContent = words.length ? `${number} of ${body.rows.length}` : "";
  });
})();
