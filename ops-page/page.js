// Asks what NGINX and the services tell anybody, and shows it. Each panel stands by itself: one that gets no answer
// says so, and the others go on. Whatever comes from outside becomes text, never markup.
"use strict";

const EVERY_SECONDS = 5;
const PATIENCE_SECONDS = 4;

const PHASES = {
  idle: "No rollout is under way.",
  provisioning: "Canaries start.",
  canary: "The canary serves.",
  promoting: "The new version becomes the stable one.",
  done: "Done; the version before is kept ready.",
  "rolling-back": "It is taken back.",
};
const REASONS = {
  "above-target": "more load than a replica should carry",
  "below-target": "less load than the replicas could carry",
  "on-target": "the load fits",
  "at-minimum": "no fewer are allowed",
  "at-maximum": "no more are allowed",
  "below-minimum": "fewer than are allowed",
  "above-maximum": "more than are allowed",
  "rate-limited": "not all at once",
  stabilized: "waits until the load has stayed so",
  rolling: "waits while a version is replaced",
  stopped: "somebody has stopped it",
  "metric-missing": "a metric is missing, so none goes",
  errors: "more errors than stable",
  latency: "slower than stable",
  "latency-ceiling": "too slow",
  "no-data": "no metrics yet",
  "not-enough-samples": "too few requests yet",
  baking: "not long enough yet",
  healthy: "as good as stable",
};

function words(reason) {
  return REASONS[reason] || reason.replaceAll("-", " ");
}

// make("p.quiet", "text", child, …)
function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  element.append(...children.filter((child) => child !== null));
  return element;
}

function facts(...pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) {
    if (value !== null) list.append(make("dt", name), make("dd", value));
  }
  return list;
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const day = today ? "" : `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })} `;
  const element = make("time", day + date.toLocaleTimeString());
  element.dateTime = date.toISOString();
  return element;
}

function events(title, lines) {
  if (!lines.length) return make("p.quiet", `${title}: none yet.`);
  const list = make("ol.events", ...lines.map(([at, text]) => make("li", moment(at), make("span", text))));
  list.setAttribute("aria-label", title);
  return list;
}

// What a part says, or why it says nothing: {data} or {silent}.
async function ask(name) {
  try {
    const answer = await fetch(`/ops/${name}.json`, {
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000),
    });
    if (answer.ok) return { data: await answer.json() };
    return { silent: answer.status === 429 ? "is asked too often" : "does not answer" };
  } catch (error) {
    return { silent: "does not answer" };
  }
}

const shown = {};

// Replaces a panel's content only when it is new: whoever reads or has selected it is not disturbed.
function show(panel, ...content) {
  const box = make("div", ...content);
  if (shown[panel] === box.innerHTML) return;
  shown[panel] = box.innerHTML;
  document.getElementById(panel).replaceChildren(...box.childNodes);
}

function health(answer, track) {
  if (answer.silent) return make("span.bad", `✕ ${answer.silent}`);
  if (answer.data.track !== track) return make("span.bad", `✕ does not answer; ${answer.data.track} stands in`);
  if (!answer.data.ready) return make("span.wary", `▲ not ready: ${answer.data.failing.join(", ")}`);
  return make("span.good", "● ready");
}

function replicas(edge, service, autoscaler) {
  const fixed = edge.replicas[edge.services.indexOf(service)];
  if (fixed !== undefined) return `${fixed}, fixed`;
  const known = autoscaler && autoscaler.data && autoscaler.data.services[service];
  if (!known) return "unknown without the autoscaler";
  return `${known.ready} of ${known.current} ready, ${known.desired} wanted (${known.minimum} to ${known.maximum})`;
}

function serviceCard(service, track, answer, count) {
  const version = answer.data && answer.data.track === track ? make("span.version", answer.data.version) : null;
  return make(
    "div.card",
    make("h3", track === "stable" ? service : `${service}, ${track}`),
    facts(["health", health(answer, track)], ["version", version], ["track", track], ["replicas", count]),
  );
}

function showServices(edge, answers) {
  const cards = [];
  for (const service of edge.services) {
    cards.push(serviceCard(service, "stable", answers[service], replicas(edge, service, answers["autoscale-service"])));
    const canary = answers[`${service}-canary`];
    if (canary) cards.push(serviceCard(service, "canary", canary, null));
  }
  show("services", ...cards);
}

function showSplit(edge) {
  const canary = edge.canary_share;
  const bar = make("div.bar");
  for (const [track, share] of [["stable", 100 - canary], ["canary", canary]]) {
    const part = make(`div.${track}`);
    part.style.flexGrow = share;
    if (share) bar.append(part);
  }
  const text = canary ? `${100 - canary} % of clients get stable, ${canary} % the canary.` : "All clients get stable.";
  const before = edge.revision === "previous" ? "They are served by the version before." : null;
  show("split", bar, make("p", text), before && make("p.wary", before));
}

function showRollout(edge, answer) {
  if (!answer) return show("rollout", make("p.quiet", "This stack has no rollouts: what runs is what was started."));
  if (answer.silent) return show("rollout", make("p.bad", `✕ rollout-service ${answer.silent}; without it a canary is not judged.`));
  const state = answer.data;
  const trying = state.phase === "canary" ? ` Step ${state.step + 1} of ${state.steps.length}.` : "";
  const verdict = state.verdict && `${state.verdict.verdict} (${words(state.verdict.reason)})`;
  const ended = { promoted: "it became the stable one", "rolled-back": "it was taken back" }[state.outcome];
  show(
    "rollout",
    make(state.phase === "rolling-back" ? "p.wary" : "p", PHASES[state.phase] + trying),
    facts(
      [state.phase === "idle" ? "last release" : "release", state.release ? make("span.version", state.release) : null],
      ["last verdict", verdict],
      ["outcome", ended || null],
    ),
    events("What it has done", state.history.map((note) => [note.at, noteText(note)])),
  );
}

function noteText(note) {
  const share = note.weight ? ` ${note.weight} % of clients.` : "";
  return PHASES[note.phase] + share + (note.reason ? ` Verdict: ${words(note.reason)}.` : "");
}

function showAutoscaler(edge, answer) {
  if (!answer) return show("autoscaler", make("p.quiet", "This stack has no autoscaler: it runs the replicas it was started with."));
  if (answer.silent) return show("autoscaler", make("p.bad", `✕ autoscale-service ${answer.silent}; the replicas stay as they are.`));
  const state = answer.data;
  let standing = make("p.good", "● It decides.");
  if (state.paused) standing = make("p.wary", "▲ An operator has paused it.");
  else if (!state.leading) standing = make("p.wary", "▲ Whoever answers waits to take over.");
  const services = Object.entries(state.services).map(([name, told]) => [name, `${told.desired} wanted: ${words(told.why)}`]);
  const decisions = state.decisions.map((one) => [
    one.at,
    `${one.service} ${one.from} → ${one.to}: ${words(one.reason)}${one.failed ? " (failed)" : ""}`,
  ]);
  show("autoscaler", standing, facts(...services), events("Decisions", decisions));
}

function showLinks(edge) {
  for (const name of ["grafana", "prometheus"]) document.getElementById(name).classList.toggle("missing", !edge[name]);
}

function troubles(edge, answers) {
  const found = [];
  for (const [name, answer] of Object.entries(answers)) {
    if (answer.silent) found.push(`${name} ${answer.silent}`);
    else if (!answer.data.ready) found.push(`${name} is not ready`);
    else if (name.endsWith("-canary") && answer.data.track !== "canary") found.push(`${name} does not answer`);
  }
  return found;
}

function showOverall(found) {
  show("overall", found.length ? make("span.bad", `✕ ${found.join("; ")}.`) : make("span.good", "● All is well: everything that is asked here is ready."));
}

async function look() {
  const { data: edge, silent } = await ask("edge");
  if (silent) return showOverall([`NGINX ${silent}; what is below is from before`]);
  const names = [...edge.services, ...(edge.canary_share ? edge.services.map((name) => `${name}-canary`) : []), ...edge.parts];
  const said = await Promise.all(names.map(ask));
  const answers = Object.fromEntries(names.map((name, index) => [name, said[index]]));
  showServices(edge, answers);
  showSplit(edge);
  showRollout(edge, answers["rollout-service"]);
  showAutoscaler(edge, answers["autoscale-service"]);
  showLinks(edge);
  showOverall(troubles(edge, answers));
  document.getElementById("asked").textContent = `Last asked at ${new Date().toLocaleTimeString()}.`;
}

let next;

// A page that nobody looks at asks nothing; seen again, it asks at once.
async function watch() {
  clearTimeout(next);
  next = null;
  if (document.hidden) return;
  await look();
  if (next === null) next = setTimeout(watch, EVERY_SECONDS * 1000);
}

document.addEventListener("visibilitychange", watch);
watch();
