/* What a run had used at any of its events, what its open calls held then, and the bounds that it was created with.
 *
 * Rules: a second time on purpose what `projections/usage.py` folds, from the facts that are shown. What a run holds is
 * what its open calls reserved; at the run's end only calls in doubt go on holding. Amounts are exact. How its budgets
 * stood is in streams of their own, which are not in a bundle. This file draws nothing.
 */
'use strict';
const Used = (() => {
  const {has} = Calls;
  const INTENTS = ['tool_call_requested', 'model_call_requested'],
    OUTCOMES = ['tool_call_completed', 'tool_call_failed', 'tool_call_settled'].concat([
      'model_call_completed',
      'model_call_failed',
    ]),
    ENDS = ['run_completed', 'run_failed', 'run_cancelled'],
    MOVES = [...INTENTS, ...OUTCOMES, ...ENDS, 'effect_refused', 'cost_recorded', 'run_created', 'step_created'];

  /** What was used, from each place at which that changed: `[{place, use}, …]`. */
  function course(run) {
    const fold = new Fold.Run(),
      calls = new Map(),
      found = [{place: 0, use: used(fold, calls, null, 0)}];
    let bounds = null,
      ended = false;
    run.events.forEach((event, at) => {
      const {type, facts} = event,
        {path} = facts;
      fold.take(event);
      if (!MOVES.includes(type)) return;
      if (type === 'run_created') bounds = has(facts.budget) ? facts.budget : null;
      const open = facts.in_doubt === true || facts.outcome === 'resent';
      if (ENDS.includes(type)) {
        ended = true;
        for (const one of calls.keys()) {
          const row = fold.ledger.get(one);
          if (!row || !row.writes || !['RUNNING', 'PENDING_VERIFICATION'].includes(row.status)) calls.delete(one);
        }
      } else if (INTENTS.includes(type)) {
        calls.delete(path);
        const {reserved} = facts;
        if (!ended && Exact.isMap(reserved) && Object.keys(reserved).length) calls.set(path, reserved);
      } else if ((OUTCOMES.includes(type) || type === 'effect_refused') && !open) calls.delete(path);
      found.push({place: at + 1, use: used(fold, calls, bounds, fold.types.get('step_created') || 0)});
    });
    return found;
  }

  function used(fold, calls, bounds, steps) {
    const held = new Map();
    for (const reserved of calls.values())
      for (const [account, amounts] of Object.entries(reserved))
        for (const [name, amount] of Object.entries(Exact.isMap(amounts) ? amounts : {})) {
          if (!held.has(account)) held.set(account, new Map());
          held.get(account).set(name, Exact.plus(held.get(account).get(name) || 0, amount));
        }
    return {...fold.total, steps, held, open: calls.size, bounds};
  }

  /** What was used at a place. */
  function at(found, place) {
    let low = 0,
      high = found.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (found[middle].place <= place) low = middle;
      else high = middle - 1;
    }
    return found[low].use;
  }

  return {course, at};
})();
