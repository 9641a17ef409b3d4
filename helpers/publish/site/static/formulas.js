"use strict";
// MathJax's settings: formulas as the notebooks write them, drawn from the one file beside this one; nothing is fetched.
window.MathJax = {
  tex: { inlineMath: [["$", "$"], ["\\(", "\\)"]], displayMath: [["$$", "$$"], ["\\[", "\\]"]], processEscapes: true },
  options: { enableMenu: false, ignoreHtmlClass: "highlight|output_text" },
  svg: { fontCache: "global" },
};
