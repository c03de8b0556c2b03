// Runs before the page's own scripts: records its questions, their answers and what it shows.

window.recorded = { questions: [], observations: [], times: [], answers: {}, inFlight: 0, most: 0 };

// hold() holds the answers back until release(), without an outage for the page.
let held;
window.hold = () => { held = new Promise((resolve) => { window.release = resolve; }); };

const { fetch } = window;
window.fetch = async (url, options) => {
  recorded.most = Math.max(recorded.most, ++recorded.inFlight);
  const query = new URL(url, location).searchParams;
  const state = ["position", "velocity", "angle", "angular_velocity"].map((name) => query.get(name));
  recorded.questions.push(state.join(" "));
  try {
    const response = await fetch(url, options);
    const answer = await response.clone().json();
    recorded.answers[state.join(" ")] = answer.left < answer.right ? 1 : 0;
    await held;
    return response;
  } finally {
    recorded.inFlight -= 1;
  }
};

addEventListener("DOMContentLoaded", () => {
  const stage = document.getElementById("cartpole");
  const record = () => {
    recorded.observations.push(stage.dataset.observation);
    recorded.times.push(performance.now());
  };
  new MutationObserver(record).observe(stage, { attributeFilter: ["data-observation"] });
});
