/* The calls of a run, folded: the tool ledger, what each call cost, and what went wrong.
 *
 * Rules: as in `fold.js`, which this is a part of: it says what an event does to a call, by path. Amounts are exact,
 * however large. A failure is kept by what failed and its attempt, so that what comes right later finds it. What a step
 * asked for before its code began afresh is another call than what it asks for now at the same path.
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
  const LOSES = ['step_completed', 'step_failed', 'step_cancelled', 'step_retry_scheduled'];
  const BLOCKS = ['blocked', 'parked', 'divergence'];
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
  const BACK = 1000;
  const has = (value) => value !== undefined && value !== null;

  class Calls {
    constructor() {
      for (const name of ['ledger', 'costs', 'failures', 'names', 'kids', 'models', 'generations', 'stumbled'])
        this[name] = new Map();
      [this.fresh, this.asking] = [0, new Set()];
      this.total = {model_calls: 0, tool_calls: 0, input_tokens: 0, output_tokens: 0, cached_tokens: 0, usd_nano: 0};
      this.changed = [];
    }

    /** Whether an event is the word for not knowing, that came behind the word of somebody who knew. */
    late(type, facts) {
      const row = this.ledger.get(facts.path);
      return type === 'tool_call_failed' && facts.category === 'unknown' && !!row && !OPEN.includes(row.status);
    }

    /** How often the step's code began afresh, and which calls were asked for since. */
    generation(type, facts) {
      if (type === 'step_created') {
        this.stumbled.clear();
        this.asking.clear();
      } else if (type === 'step_retry_scheduled' && facts.fresh) this.fresh++;
      else if (this.fresh && ['tool_call_requested', 'model_call_requested', 'cost_recorded'].includes(type))
        this.generations.set(facts.path, this.fresh);
    }

    /** What tells the call at a path from earlier ones. */
    key(path, generation = this.generations.get(path)) {
      return generation ? `${path}~${generation}` : path;
    }

    /** Whoever made the calls that are under way has lost the step. */
    sweep(ends) {
      if (ends) this.names.clear();
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

    spend(type, event, facts) {
      const key = this.key(facts.path),
        row = this.costs.get(key),
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
          succeeded: 0,
          first_attempt: 0,
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
        this.costs.set(key, one);
        return one;
      };
      if (type === 'tool_call_requested' || type === 'model_call_requested') {
        const kind = type === 'tool_call_requested' ? 'tool' : 'model';
        this.total[`${kind}_calls`]++;
        this.names.set(facts.path, facts[kind]);
        const one = row || begin(0, kind, facts[kind]);
        Object.assign(one, {calls: one.calls + 1, last, first_attempt: one.first_attempt || facts.attempt});
      } else if (type === 'cost_recorded') {
        const one = row || begin(0, 'recorded', facts.name);
        one.last = last;
        add(one, facts.spent, MONEY);
      } else if (type === 'model_call_completed' || OUTCOMES.includes(type)) {
        if (row) this.outcome(row, type, facts, last);
        if (type.endsWith('_completed')) this.names.delete(facts.path);
        if (type === 'model_call_completed') add(row, facts, MONEY);
        else {
          add(row, facts.spent, MONEY, false);
          this.total.usd_nano = Exact.plus(this.total.usd_nano, (facts.spent && facts.spent.usd_nano) || 0);
        }
      }
    }

    /** What an outcome says of the attempts of a call: how many there were, and what came of them. */
    outcome(row, type, facts, last) {
      const nothing =
        type === 'tool_call_failed'
          ? !facts.in_doubt && facts.category !== 'unknown'
          : type === 'model_call_failed' || facts.outcome === 'no_effect';
      row.last = last;
      row.failed += nothing ? 1 : 0;
      row.succeeded += type.endsWith('_completed') || facts.outcome === 'succeeded' ? 1 : 0;
      row.calls = Math.max(row.calls, Exact.number(facts.attempt) - Exact.number(row.first_attempt) + 1, row.failed + row.succeeded);
    }

    /** Model calls, by what tells them apart; those that nobody answered are lost with their step. */
    ask_models(event, type, facts) {
      const key = has(facts.path) ? this.key(facts.path) : null,
        time = event.timestamp;
      if (type === 'model_call_requested') {
        const {requested} = this.models.get(key) || {requested: time};
        this.models.set(key, {seq: event.log_seq, status: 'running', requested, ended: null, done: null, said: {}});
        this.asking.add(key);
      } else if (type === 'model_call_completed' || type === 'model_call_failed') {
        const row = this.models.get(key);
        this.asking.delete(key);
        if (row) Object.assign(row, {status: type.slice(11), ended: time, done: event.log_seq, said: facts});
      } else if (LOSES.includes(type) && (type !== 'step_retry_scheduled' || facts.fresh))
        for (const one of this.asking) {
          const row = this.models.get(one);
          if (row && row.status === 'running') Object.assign(row, {status: 'lost', ended: time});
        }
    }

    /** What went wrong, and whether it came right later. */
    fail(event, type, facts) {
      const right = (keys) => keys.forEach((key) => this.failures.has(key) && (this.failures.get(key).recovered = true));
      const attempts = (key, number) => {
        const last = Exact.number(number),
          first = Math.max(1, last - BACK + 1);
        return Array.from({length: Math.max(0, last - first + 1)}, (_, at) => `${key}#${first + at}`);
      };
      const call = has(facts.path) ? this.key(facts.path) : null;
      if (type === 'tool_call_completed' || type === 'model_call_completed') right(attempts(call, facts.attempt));
      else if (type === 'tool_call_settled') {
        for (const key of attempts(call, facts.attempt)) {
          const one = this.failures.get(key);
          if (one) one.in_doubt = one.in_doubt && facts.outcome === 'resent';
        }
        if (facts.outcome === 'succeeded') right(attempts(call, facts.attempt));
      } else if (type === 'step_completed') {
        right([...attempts(`step:${facts.step}`, facts.epoch), ...BLOCKS.map((kind) => `${kind}:${facts.step}`)]);
        for (const [key, [generation, last]] of this.stumbled)
          if (generation < this.fresh) right(last ? attempts(key, last) : [key]);
      } else if (KINDS[type] && !(type === 'child_run_ended' && facts.status === 'completed')) {
        const step = ['step_retry_scheduled', 'step_failed', 'lease_expired'].includes(type);
        const key = step
          ? `step:${facts.step}#${facts.epoch}`
          : type === 'effect_refused'
            ? `${this.key(facts.path, this.fresh)}!`
            : type === 'child_run_ended'
              ? `child:${facts.run}`
              : has(facts.path) && has(facts.attempt)
                ? `${call}#${facts.attempt}`
                : `${KINDS[type]}:${BLOCKS.includes(KINDS[type]) ? this.step : event.log_seq}`;
        this.stumble(type, facts, call);
        const before = this.failures.get(key),
          unknown = before && facts.category === 'unknown',
          whole = ['run_parked', 'run_cancelled'].includes(type);
        const name = has(facts.name)
          ? facts.name
          : type === 'child_run_ended'
            ? this.kids.get(facts.run) || ''
            : whole
              ? this.agent
              : has(facts.path) && type !== 'divergence_detected'
                ? this.names.get(facts.path) || ''
                : this.stepAgent;
        const attempt =
          type === 'step_retry_scheduled' ? facts.attempt - 1 : has(facts.attempt) ? facts.attempt : this.attempt;
        this.failures.set(key, {
          kind: KINDS[type],
          name: unknown ? before.name : name,
          attempt,
          seq: event.log_seq,
          first_seq: before ? before.first_seq : event.log_seq,
          times: 1 + (before ? before.times : 0),
          final: !has(facts.retry_ns) && !['step_retry_scheduled', 'lease_expired'].includes(type),
          in_doubt: type === 'tool_call_failed' && facts.in_doubt === true,
          recovered: false,
          cause: unknown ? before.cause : event,
        });
      }
    }

    /** What failed of the step, in case its code begins afresh: then it came right when the step completes. */
    stumble(type, facts, call) {
      const generation = this.generations.get(facts.path) || 0;
      if (type === 'effect_refused') this.stumbled.set(`${this.key(facts.path, this.fresh)}!`, [this.fresh, 0]);
      else if (type === 'tool_call_failed' || type === 'model_call_failed') {
        const [, last] = this.stumbled.get(call) || [0, 0];
        this.stumbled.set(call, [generation, Math.max(Exact.number(facts.attempt), last)]);
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
