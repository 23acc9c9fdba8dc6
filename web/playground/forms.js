/**
 * Forms of commands, made from the schema alone: a field of 0 and 1 is a box to tick, a whole number of few values a slider, any other
 * a number.
 *
 * @module
 */

const SLIDER_VALUES = 65;
const REPEATS_MS = [0, 50, 100, 250, 1000];

/**
 * @typedef {import("../sdk/world_view.js").CommandType} CommandType
 * @typedef {import("../sdk/world_view.js").Field} Field
 */

/** @param {Field} field @returns {{row: HTMLElement, value: () => number}} */
function fieldInput(field) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const whole = field.dtype[0] !== "f";
  input.name = field.name;
  if (whole && field.lo === 0 && field.hi === 1) {
    label.className = "check";
    input.type = "checkbox";
    label.append(input, field.name);
    return { row: label, value: () => Number(input.checked) };
  }
  const output = document.createElement("output");
  const few = whole && field.hi - field.lo < SLIDER_VALUES;
  const start = Math.min(Math.max(0, field.lo), field.hi);
  Object.assign(input, { type: few ? "range" : "number", min: String(field.lo), max: String(field.hi), step: whole ? "1" : "any", value: String(start) });
  if (few) {
    output.textContent = input.value;
    input.oninput = () => (output.textContent = input.value);
  }
  label.append(output, `${field.name} (${field.lo} to ${field.hi})`, input);
  return { row: label, value: () => Number(input.value) };
}

/** Timers of forms that repeat; those of a form that is shown no more are ended. @type {Set<ReturnType<typeof setInterval>>} */
const repeating = new Set();

/**
 * Fill `box` with a form for each command.
 *
 * @param {HTMLElement} box @param {CommandType[]} commands
 * @param {(name: string, fields: Record<string, number>) => string} send returns why it could not be sent, or ""
 */
export function commandForms(box, commands, send) {
  for (const timer of repeating) clearInterval(timer);
  repeating.clear();
  box.replaceChildren(...commands.map((command) => commandForm(command, send)));
  if (!commands.length) box.textContent = "This game has no commands.";
}

/** @param {CommandType} command @param {(name: string, fields: Record<string, number>) => string} send */
function commandForm(command, send) {
  const form = document.createElement("form");
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = command.name;
  const fields = document.createElement("div");
  fields.className = "fields";
  const inputs = new Map(command.fields.map((field) => [field.name, fieldInput(field)]));
  fields.append(...[...inputs.values()].map(({ row }) => row));
  const row = document.createElement("div");
  row.className = "row";
  const button = document.createElement("button");
  button.className = "primary";
  button.textContent = `Send ${command.name}`;
  const every = document.createElement("select");
  every.ariaLabel = `repeat ${command.name}`;
  for (const ms of REPEATS_MS) every.add(new Option(ms ? `every ${ms} ms` : "once", String(ms)));
  const fault = document.createElement("span");
  fault.className = "warn";
  fault.role = "status";
  const now = () => {
    fault.textContent = send(command.name, Object.fromEntries([...inputs].map(([name, { value }]) => [name, value()])));
  };
  /** @type {ReturnType<typeof setInterval> | undefined} */ let timer;
  every.onchange = () => {
    clearInterval(timer);
    if (timer !== undefined) repeating.delete(timer);
    if (Number(every.value)) repeating.add((timer = setInterval(now, Number(every.value))));
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    now();
  };
  row.append(button, every, fault);
  set.append(legend, fields, row);
  form.append(set);
  return form;
}
