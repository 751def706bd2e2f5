/* The calls of a run, folded: the tool ledger, what each call cost, and what went wrong.
 *
 * Rules: as in `fold.js`, which this is a part of: it says what an event does to a call, by path. Amounts are exact,
 * however large. A failure is kept by what failed and its attempt, so that what comes right later finds it.
 */
'use strict';
const Calls = (() => {
  const OPEN = ['RUNNING', 'PENDING_VERIFICATION'];
  const SETTLED = {
    succeeded: 'SUCCEEDED',
    no_effect: 'FAILED_NO_EFFECT',
    compensated: 'COMPENSATED',
    resent: 'PENDING_VERIFICATION',
  };
  const OUTCOMES = ['tool_call_completed', 'tool_call_failed', 'tool_call_settled', 'model_call_failed'];
  const MONEY = ['input_tokens', 'output_tokens', 'cached_tokens', 'usd_nano'];
  const KINDS = {
    tool_call_failed: 'tool',
    model_call_failed: 'model',
    effect_refused: 'refused',
    step_retry_scheduled: 'step',
    step_failed: 'step',
    step_blocked: 'blocked',
    lease_expired: 'lease',
    run_parked: 'parked',
    divergence_detected: 'divergence',
    child_run_ended: 'child',
    run_cancelled: 'cancelled',
  };
  const has = (value) => value !== undefined && value !== null;

  class Calls {
    constructor() {
      [this.ledger, this.costs, this.failures, this.names] = [new Map(), new Map(), new Map(), new Map()];
      this.total = {model_calls: 0, tool_calls: 0, input_tokens: 0, output_tokens: 0, cached_tokens: 0, usd_nano: 0};
      this.changed = [];
    }

    /** Whether an event is the word for not knowing, that came behind the word of somebody who knew. */
    late(type, facts) {
      const row = this.ledger.get(facts.path);
      return type === 'tool_call_failed' && facts.category === 'unknown' && !!row && !OPEN.includes(row.status);
    }

    /** Whoever made the calls that are under way has lost the step. */
    sweep(ends) {
      for (const [path, row] of this.ledger) {
        const status =
          row.status === 'RUNNING'
            ? 'PENDING_VERIFICATION'
            : ends && row.status === 'RESERVED'
              ? 'FAILED_NO_EFFECT'
              : null;
        if (status === null) continue;
        row.status = status;
        this.changed.push(path);
      }
    }

    call(type, event, facts) {
      const {path} = facts,
        row = this.ledger.get(path),
        seq = event.log_seq,
        time = event.timestamp;
      const begin = (attempt, status) =>
        this.ledger.set(path, {
          tool: facts.tool,
          attempt,
          status,
          seq,
          writes: facts.side_effect === 'external_write',
          done: null,
          requested: time,
          updated: time,
          settled_by: null,
          compensating: false,
          resend: false,
          worker: attempt ? this.worker : null,
        });
      if (type === 'tool_call_requested') {
        if (facts.side_effect !== 'external_write' && !('key' in facts)) return;
        begin(facts.attempt, 'RUNNING');
      } else if (type === 'tool_approval_required') {
        if (!row || !OPEN.includes(row.status)) begin(0, 'RESERVED');
      } else if (!row) return;
      else if (type === 'tool_call_completed') Object.assign(row, {status: 'SUCCEEDED', done: seq, updated: time});
      else if (type === 'tool_call_failed')
        Object.assign(row, {status: facts.in_doubt ? 'PENDING_VERIFICATION' : 'FAILED_NO_EFFECT', updated: time});
      else if (type === 'tool_call_settled') {
        Object.assign(row, {
          status: SETTLED[facts.outcome],
          updated: time,
          settled_by: facts.by,
          compensating: false,
          resend: facts.outcome === 'resent',
        });
        if (facts.outcome === 'succeeded') row.done = seq;
      } else if (type === 'effect_refused') {
        if (!OPEN.includes(row.status)) Object.assign(row, {status: 'FAILED_NO_EFFECT', updated: time});
      } else if (type === 'compensation_started') row.compensating = true;
      this.changed.push(path);
    }

    spend(type, event, facts, silent) {
      const row = this.costs.get(facts.path),
        last = event.timestamp;
      const add = (one, amounts, names, counts = true) =>
        names.forEach((name) => {
          const amount = (amounts && amounts[name]) || 0;
          if (one) one[name] = Exact.plus(one[name], amount);
          if (counts) this.total[name] = Exact.plus(this.total[name], amount);
        });
      const begin = (calls, kind, name) => {
        const one = {
          calls,
          failed: 0,
          input_tokens: 0,
          output_tokens: 0,
          cached_tokens: 0,
          usd_nano: 0,
          seq: event.log_seq,
          kind,
          name,
          first: last,
          last,
        };
        this.costs.set(facts.path, one);
        return one;
      };
      if (type === 'tool_call_requested' || type === 'model_call_requested') {
        const kind = type === 'tool_call_requested' ? 'tool' : 'model';
        this.total[`${kind}_calls`]++;
        this.names.set(facts.path, facts[kind]);
        if (row) [row.calls, row.last] = [row.calls + 1, last];
        else begin(1, kind, facts[kind]);
      } else if (type === 'cost_recorded') add(begin(0, 'recorded', facts.name), facts.spent, MONEY);
      else if (type === 'model_call_completed' || OUTCOMES.includes(type)) {
        if (row) [row.failed, row.last] = [row.failed + (type.endsWith('_failed') ? 1 : 0), last];
        if (type === 'model_call_completed') add(row, facts, MONEY);
        else {
          add(row, facts.spent, MONEY, false);
          if (!silent)
            this.total.usd_nano = Exact.plus(this.total.usd_nano, (facts.spent && facts.spent.usd_nano) || 0);
        }
      }
    }

    /** What went wrong, and whether it came right later. */
    fail(event, type, facts) {
      const right = (keys, more) =>
        keys.forEach((key) => this.failures.has(key) && Object.assign(this.failures.get(key), more));
      const attempts = (path, count) => Array.from({length: Math.min(count, 100000)}, (_, at) => `${path}#${at + 1}`);
      if (type === 'tool_call_completed' || type === 'model_call_completed')
        right(attempts(facts.path, facts.attempt), {recovered: true});
      else if (type === 'tool_call_settled')
        right(attempts(facts.path, facts.attempt), {
          in_doubt: facts.outcome === 'resent',
          recovered: facts.outcome === 'succeeded',
        });
      else if (type === 'step_completed') right(attempts(`step:${facts.step}`, facts.epoch), {recovered: true});
      else if (KINDS[type] && !(type === 'child_run_ended' && facts.status === 'completed')) {
        const step = ['step_retry_scheduled', 'step_failed', 'lease_expired'].includes(type);
        const key = step
          ? `step:${facts.step}#${facts.epoch}`
          : type === 'effect_refused'
            ? `${facts.path}!`
            : type === 'child_run_ended'
              ? `child:${facts.run}`
              : has(facts.path) && has(facts.attempt)
                ? `${facts.path}#${facts.attempt}`
                : `${type}:${event.log_seq}`;
        const before = this.failures.get(key),
          whole = ['run_parked', 'run_cancelled'].includes(type);
        const name = has(facts.name)
          ? facts.name
          : type === 'child_run_ended'
            ? this.names.get(facts.run) || ''
            : whole
              ? this.agent
              : has(facts.path) && type !== 'divergence_detected'
                ? this.names.get(facts.path) || ''
                : this.stepAgent;
        const attempt =
          type === 'step_retry_scheduled' ? facts.attempt - 1 : has(facts.attempt) ? facts.attempt : this.attempt;
        this.failures.set(key, {
          kind: KINDS[type],
          name,
          attempt,
          seq: event.log_seq,
          first_seq: before ? before.first_seq : event.log_seq,
          times: 1 + (before ? before.times : 0),
          final: !has(facts.retry_ns) && !['step_retry_scheduled', 'lease_expired'].includes(type),
          in_doubt: type === 'tool_call_failed' && facts.in_doubt === true,
          recovered: false,
        });
      }
    }

    get inDoubt() {
      let count = 0;
      for (const row of this.ledger.values()) count += row.writes && row.status === 'PENDING_VERIFICATION' ? 1 : 0;
      return count;
    }
  }

  return {Calls, MONEY, has};
})();
