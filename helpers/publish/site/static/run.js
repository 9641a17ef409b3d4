"use strict";
// The curves of a run's page.
for (const figure of document.querySelectorAll("figure.curves")) {
  Suite.chart(figure, Suite.data("panels")[Number(figure.dataset.panel)]);
}
