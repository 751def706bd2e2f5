/* Whether the states of the bundle follow from its events.
 *
 * Rules: the events that are shown (verify.js has compared those with what is sealed) are folded a second time
 * (fold.js), and what comes out is compared with what the bundle says the run was, after every event. The fold is left
 * in the check, for `rows.js`. What nothing of this page compares, `notFollowed` says.
 */
'use strict';
const Follow = (() => {
  const notFollowed =
    'The ledger’s id, the head of the log, the version and the time of export: no event of the run says them. ' +
    'Of tables: how often a step was claimed and lost, idempotency keys, and figures of the summary that are not ' +
    'shown here. `agentledger evidence-check` looks at all of them.';
  const MOST_PROPOSED = 32;
  const KEYS = new Set([
    'status',
    'waiting',
    'step',
    'step_number',
    'attempt',
    'epoch',
    'worker',
    'version',
    'state',
    'proposed',
    'proposed_count',
    'ledger',
    'waits',
    'cost',
    'approvals',
    'children',
    'in_doubt',
  ]);
  const none = (value) => (value === undefined ? null : value);
  const unsaid = (value) => Shown.UNSAID.includes(value);

  /** What of a standing is not what the fold gives; `patch` is what the bundle says has changed. */
  function unlike(fold, standing, patch, before) {
    const wrong = Object.keys(patch).filter((name) => !KEYS.has(name)),
      table = (name) => (Exact.isMap(standing[name]) ? standing[name] : {});
    const alike = (name, value) => none(standing[name]) !== none(value) && wrong.push(name);
    alike('status', fold.status);
    alike('waiting', fold.waiting);
    alike('step', fold.step);
    alike('step_number', fold.number);
    alike('attempt', fold.attempt);
    alike('epoch', fold.epoch);
    alike('worker', fold.worker);
    alike('version', fold.version);
    alike('proposed_count', fold.proposed.length);
    alike('in_doubt', fold.inDoubt);
    const cost = table('cost');
    if (
      ['model_calls', 'tool_calls', 'input_tokens', 'output_tokens', 'usd_nano'].some(
        (name) => cost[name] !== fold.total[name],
      )
    )
      wrong.push('cost');
    for (const path of new Set([...fold.changed, ...Object.keys(patch.ledger || {})])) {
      const one = fold.ledger.get(path),
        shown = table('ledger')[path];
      if (!one !== !shown || (one && ['tool', 'status', 'attempt'].some((name) => one[name] !== shown[name])))
        wrong.push(`ledger at ${path}`);
    }
    const whole = (name, map, same) => {
      const shown = table(name);
      return (
        Object.keys(shown).length === map.size && [...map].every(([key, one]) => key in shown && same(shown[key], one))
      );
    };
    if (!whole('approvals', fold.approvals, (shown, one) => shown === one)) wrong.push('approvals');
    if (!whole('children', fold.children, (shown, one) => shown === one)) wrong.push('children');
    const wake = (shown, ns) =>
      none(ns) === null ? none(shown) === null : Math.abs(Exact.number(shown) - Exact.number(ns) / 1e9) < 1e-5;
    if (
      !whole(
        'waits',
        fold.waits,
        (shown, one) => shown.kind === one.kind && shown.name === one.name && wake(shown.wake, one.wake),
      )
    )
      wrong.push('waits');
    if ((fold.proposed !== before.proposed || 'proposed' in patch) && !fold.proposed.some((one) => unsaid(one.patch))) {
      const patches = fold.proposed.slice(-MOST_PROPOSED).map((one) => one.patch);
      if (!Exact.same(none(standing.proposed), patches)) wrong.push('proposed');
    }
    if (
      (fold.state !== before.state || 'state' in patch) &&
      !unsaid(fold.state) &&
      !Exact.same(Exact.merge(undefined, fold.state), standing.state)
    )
      wrong.push('state');
    return wrong;
  }

  /** The standing after each event. Leaves in `check` the fold, and which step was under way at each event. */
  async function states(check) {
    const {events, frames, final_state: end} = check.bundle,
      fold = (check.fold = new Fold.Run());
    check.under = new Map();
    let standing = Object.create(null);
    for (let at = 0; at < events.length; at++) {
      await check.breathe();
      const event = events[at],
        frame = frames[at],
        before = {state: fold.state, proposed: fold.proposed};
      fold.take(event);
      check.under.set(event, {step: event.step_id || fold.step, agent: fold.stepAgent || fold.agent});
      if (!frame || frame.seq !== event.seq || !Exact.isMap(frame.patch)) {
        check.wrong('states', event.seq, 'has no state of its own in the page');
        continue;
      }
      standing = Exact.merge(standing, frame.patch);
      const wrong = unlike(fold, standing, frame.patch, before);
      if (wrong.length)
        check.wrong('states', event.seq, `is shown with another ${wrong.join(', ')} than its events give`);
      else if (unsaid(fold.state)) check.open('states', 'documents of state, whose contents are not here to read');
      else check.right('states');
    }
    if (frames.length > events.length) check.wrong('states', null, 'There are more states in the page than events.');
    const last = events.findLast((event) => event.type === 'agent_result_returned');
    const output = fold.ended === 'completed' && last ? last.content.output : null;
    const document = unsaid(fold.state) || Exact.same(end.state, none(fold.state));
    if (end.version !== fold.version || end.status !== fold.status || !document || !Exact.same(end.output, output)) {
      check.wrong('states', null, 'The final state is not the one that the events give.');
    }
  }

  return {states, notFollowed};
})();
