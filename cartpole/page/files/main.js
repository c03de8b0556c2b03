// Puts the page together: the cart-pole, its control loop, what is drawn, what is pressed.

import { Cart } from "./cart.js";
import { Control } from "./control.js";
import { DecisionMap } from "./decisions.js";
import { Readings } from "./readings.js";
import { Stage } from "./stage.js";
import { Status } from "./status.js";

const PUSH = 0.4; // m/s
const TILT = 0.1; // rad

const byId = (id) => document.getElementById(id);
const cart = new Cart();
const stage = new Stage(byId("cartpole"));
const map = new DecisionMap(byId("map"));
const readings = new Readings(byId);
const status = new Status(byId("status"));

const view = {
  showCart() {
    stage.show(cart.state, control.period);
    byId("steps").textContent = cart.steps;
    byId("best").textContent = cart.best;
  },
  showAnswer: (answer, milliseconds) => readings.add(answer, milliseconds),
  showDecisions: () => map.renew(cart.state),
  showState() {
    const { state, isPolicyOn } = control;
    Object.assign(document.documentElement.dataset, { state, policy: isPolicyOn ? "on" : "off" });
    stage.isFallen = state === "fallen";
    status.show(state, cart.steps, isPolicyOn);
    readings.draw(performance.now(), true);
  },
};
const control = new Control(cart, view);

const pushes = {
  "push-left": () => control.push(-PUSH, 0),
  "push-right": () => control.push(PUSH, 0),
  "tilt-left": () => control.push(0, -TILT),
  "tilt-right": () => control.push(0, TILT),
};
for (const [id, push] of Object.entries(pushes)) byId(id).addEventListener("click", push);

byId("cartpole").addEventListener("click", (event) => {
  pushes[stage.isLeftOfCart(event.clientX) ? "push-right" : "push-left"](); // away from the press
});

document.addEventListener("keydown", (event) => {
  const side = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
  if (!side || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (!event.repeat) pushes[`${event.shiftKey ? "tilt" : "push"}-${side}`]();
});

/** A button that switches one of the control loop's properties, and says so. */
function toggle(id, attribute, name) {
  const button = byId(id);
  const show = () => button.setAttribute(attribute, control[name]);
  button.addEventListener("click", () => {
    control.set({ [name]: !control[name] });
    show();
  });
  show();
}

control.isPaused = matchMedia("(prefers-reduced-motion: reduce)").matches;
control.isHidden = document.hidden;
toggle("pause", "aria-pressed", "isPaused");
toggle("slow", "aria-pressed", "isSlow");
toggle("policy", "aria-checked", "isPolicyOn");
byId("reset").addEventListener("click", () => control.reset());
document.addEventListener("visibilitychange", () => {
  control.set({ isHidden: document.hidden || document.visibilityState === "hidden" });
});

function drawFrame(now) {
  stage.draw(now);
  map.point(stage.drawn);
  readings.draw(now);
  requestAnimationFrame(drawFrame);
}
requestAnimationFrame(drawFrame);
control.run();
