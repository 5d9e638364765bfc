// Charts of the page: altair's specifications, drawn by Vega in the page's colors.
import { data } from "audioscope/state.js";

export const dark = matchMedia("(prefers-color-scheme: dark)");

export function embed(place, spec, more = {}) {
  // ast: Vega's own expression interpreter, so that the page's policy can forbid eval
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" }, ...more };
  return vegaEmbed(place, { ...spec, config: data.themes[dark.matches ? 1 : 0] }, options);
}
