// Questions to the service that served this page.

const NAMES = ["position", "velocity", "angle", "angular_velocity"];

/**
 * GET /inference: {left, right} for a state.
 *
 * Rejects if the answer is an error, is not one, or is not whole within the time limit (ms).
 */
export async function ask(state, limit) {
  const query = new URLSearchParams(state.map((value, index) => [NAMES[index], String(value)]));
  const { left, right } = await fetchJSON(`inference?${query}`, {}, limit);
  if (!Number.isFinite(left) || !Number.isFinite(right)) throw new TypeError("no two logits");
  return { left, right };
}

/**
 * POST /inference: the action, 0 or 1, for each of 1 to 4,096 states. Rejects as `ask` does.
 */
export async function askMany(states, limit) {
  const body = JSON.stringify({ observations: states });
  const headers = { "content-type": "application/json" };
  const answer = await fetchJSON("inference", { method: "POST", headers, body }, limit);
  if (answer.actions?.length !== states.length) throw new TypeError("not an action for each");
  return answer.actions;
}

async function fetchJSON(path, options, limit) {
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), limit);
  try {
    const response = await fetch(path, { ...options, cache: "no-store", signal: aborter.signal });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return await response.json();
  } finally {
    clearTimeout(timer);
  }
}
