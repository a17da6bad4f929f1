"use strict";
// Numbers for people: what is nearly 0 or nearly 1 is not called 0 or 1.

function decimals(value, digits) {
  for (let more = digits; more <= 6; more += 1) {
    const text = value.toFixed(more), shown = Number(text);
    if ((shown !== 0 && shown !== 1) || shown === value) return text;
  }
  return value > 0 && value < 1 ? (value > 0.5 ? ">0.999999" : "<0.000001") : value.toFixed(digits);
}

function whole(value) { // halves to the even number, as the exported page has them
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

function percent(share) {
  const value = 100 * share;
  return value > 0 && value < 1 ? "below 1 %" : value > 99 && value < 100 ? "above 99 %" : `${whole(value)} %`;
}

function fartherThan(percentile) { // of a distance, in a sentence
  if (percentile >= 100) return "farther than all held-out patches";
  const share = percent(percentile / 100).replace("above", "more than").replace("below", "less than");
  return `farther than ${share} of held-out patches`;
}
