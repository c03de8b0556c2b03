// Round trips of the last questions: percentiles, and a histogram over a logarithmic scale.

const KEPT = 500; // ten seconds
const LEAST = 0.5; // ms, the left edge; the right one is 1,000 times that
const BINS = 45; // 15 a factor of ten

export class RoundTrips {
  #kept = new Float64Array(KEPT);
  #count = 0;

  constructor(figure) {
    [this.bars, this.p50, this.p99] = [".bars", ".p50", ".p99"].map((name) =>
      figure.querySelector(name),
    );
  }

  add(milliseconds) {
    this.#kept[this.#count++ % KEPT] = milliseconds;
  }

  /** Draw, and return p50 and p99 in milliseconds; null before the first. */
  draw() {
    const sorted = this.#kept.slice(0, this.#count).sort();
    if (!sorted.length) return null;
    const counts = new Uint32Array(BINS);
    for (const trip of sorted) counts[Math.floor(place(trip))] += 1;
    const most = Math.max(...counts);
    const bars = Array.from(counts, (count, i) => count && bar(i, count / most)).filter(Boolean);
    this.bars.setAttribute("d", bars.join(""));
    const [p50, p99] = [0.5, 0.99].map((share) => sorted[Math.ceil(share * sorted.length) - 1]);
    this.p50.setAttribute("d", `M${place(p50)} 0v1`);
    this.p99.setAttribute("d", `M${place(p99)} 0v1`);
    return { p50, p99 };
  }
}

/** Where on the scale, in bins from its left edge. */
function place(milliseconds) {
  const bin = (BINS / 3) * Math.log10(milliseconds / LEAST);
  return Math.max(0, Math.min(BINS - 0.01, bin));
}

function bar(index, height) {
  const drawn = Math.max(0.03, height);
  return `M${index + 0.1} 1v${-drawn}h.8v${drawn}z`;
}
