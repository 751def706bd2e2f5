/* A second fold of a run: what its events say it was, after each of them.
 *
 * Rules: made a second time on purpose, from the events that are shown, with no code of the first (`ledger_core/run`):
 * two folds that agree say more than one. It follows status and waits, the step and its claim, the state document and
 * what is proposed for it, the tool ledger, costs, approvals, children and failures. Types that it does not know change
 * nothing. This file compares nothing.
 */
'use strict';
const Fold = (() => {
  const OPEN = ['RUNNING', 'PENDING_VERIFICATION'];
  const SETTLED = {succeeded: 'SUCCEEDED', no_effect: 'FAILED_NO_EFFECT', compensated: 'COMPENSATED', resent: 'PENDING_VERIFICATION'};
  const ENDS = ['step_completed', 'step_failed', 'step_cancelled'];
  const SWEEPS = ['step_released', 'lease_expired', 'step_retry_scheduled', ...ENDS];
  const ENDED = {run_completed: 'completed', run_failed: 'failed', run_cancelled: 'cancelled'};
  const CLOSES = ['step_created', 'step_retry_scheduled', ...ENDS, 'timer_fired', 'effect_abandoned', 'effect_refused', ...Object.keys(ENDED)];
  const OUTCOMES = ['tool_call_completed', 'tool_call_failed', 'tool_call_settled', 'model_call_failed'];
  const MONEY = ['input_tokens', 'output_tokens', 'cached_tokens', 'usd_nano'];
  const KINDS = {tool_call_failed: 'tool', model_call_failed: 'model', effect_refused: 'refused', step_retry_scheduled: 'step', step_failed: 'step',
    step_blocked: 'blocked', lease_expired: 'lease', run_parked: 'parked', divergence_detected: 'divergence', child_run_ended: 'child', run_cancelled: 'cancelled'};
  const has = (value) => value !== undefined && value !== null;

  class Run {
    constructor() {
      Object.assign(this, {events: 0, agent: null, session: null, status: 'pending', waiting: null, step: null, stepAgent: null, number: 0, attempt: 1,
        epoch: 0, worker: null, version: 0, state: undefined, proposed: [], ended: null, entryPoint: null, code: null, used: new Set(), pending: new Set()});
      for (const name of ['ledger', 'costs', 'waits', 'failed', 'approvals', 'late', 'children', 'failures', 'types', 'names']) this[name] = new Map();
      this.total = {model_calls: 0, tool_calls: 0, input_tokens: 0, output_tokens: 0, cached_tokens: 0, usd_nano: 0};
      this.changed = [];
    }

    /** Take one more event; `changed` are the paths of the tool ledger whose rows it may have moved. */
    take(event) {
      const {type, facts, content} = event;
      this.events++;
      this.changed = [];
      this.types.set(type, (this.types.get(type) || 0) + 1);
      const kept = type === 'step_retry_scheduled' && has(facts.reopened) ? this.failed.get(facts.reopened) : undefined;
      const waited = has(facts.path) ? this.waits.get(facts.path) : undefined;
      if (SWEEPS.includes(type)) this.sweep(ENDS.includes(type));
      const silent = type === 'tool_call_failed' && facts.category === 'unknown' && this.ledger.has(facts.path) && !OPEN.includes(this.ledger.get(facts.path).status);
      if (!silent) this.wait(type, facts);
      if (has(facts.path)) {
        if (!silent) this.call(type, event, facts);
        this.spend(type, event, facts, silent);
      }
      this.work(type, facts, waited, kept);
      this.ask(type, facts);
      this.documents(type, facts, content, kept);
      this.fail(event, type, facts);
    }

    /** Whoever made the calls that are under way has lost the step. */
    sweep(ends) {
      for (const [path, row] of this.ledger) {
        const status = row.status === 'RUNNING' ? 'PENDING_VERIFICATION' : ends && row.status === 'RESERVED' ? 'FAILED_NO_EFFECT' : null;
        if (status === null) continue;
        row.status = status;
        this.changed.push(path);
      }
    }

    /** Status, step and claim. */
    work(type, facts, waited, kept) {
      const code = () => ([this.entryPoint, this.code] = [has(facts.entry_point) ? facts.entry_point : null, has(facts.code_digest) ? facts.code_digest : null]);
      if (type === 'run_created') {
        [this.agent, this.session] = [facts.agent, has(facts.session) ? facts.session : null];
        code();
      }
      else if (type === 'step_created') {
        [this.step, this.number, this.stepAgent] = [facts.step, facts.number, facts.agent];
        if (facts.number > 1) {
          [this.status, this.waiting, this.attempt] = ['pending', null, 1];
          code();
        }
        this.waits.clear();
      } else if (type === 'step_claimed') [this.code, this.status, this.waiting, this.epoch, this.worker] = [facts.code_digest || this.code, 'running', null, facts.epoch, facts.worker];
      else if (type === 'step_released') {
        this.worker = null;
        if (this.status === 'running') {
          this.waiting = has(facts.waiting) ? facts.waiting : null;
          this.status = this.waiting === null || this.waiting === 'yield' ? 'pending' : 'waiting';
        }
      } else if (type === 'lease_expired') {
        this.worker = null;
        if (this.status === 'running') [this.status, this.waiting] = ['pending', null];
      } else if (type === 'run_parked') [this.status, this.waiting] = ['parked', `${facts.losses} workers were lost with it`];
      else if (type === 'divergence_detected') [this.status, this.waiting] = ['diverged', facts.code];
      else if (type === 'step_retry_scheduled') {
        [this.worker, this.status, this.waiting, this.attempt] = [null, 'waiting', 'retry', facts.attempt];
        if (has(facts.reopened)) this.failed.delete(facts.reopened);
        if (facts.fresh) this.waits.clear();
        else if (kept !== undefined) for (const [path, one] of this.waits) if (one.event > kept) this.waits.delete(path);
      } else if (ENDS.includes(type)) {
        this.worker = null;
        this.waits.clear();
        this.failed.clear();
      } else if (ENDED[type]) [this.status, this.waiting, this.ended] = [ENDED[type], null, ENDED[type]];
      else if (type === 'tool_call_settled' && this.status === 'waiting') {
        const known = this.waiting === 'in doubt' && this.inDoubt === 0;
        if (known || (this.waiting === 'waits' && waited)) [this.status, this.waiting] = ['pending', null];
      }
    }

    /** What its branches wait for, and which effects have come to an end that a retry may reopen. */
    wait(type, facts) {
      const {path} = facts, begin = (kind, name, wake) => this.waits.set(path, {kind, name, wake, event: this.events});
      const gone = ['tool_call_requested', 'model_call_requested', 'tool_call_completed', 'tool_call_settled', 'effect_abandoned', 'effect_refused',
        'tool_call_joined', 'timer_fired', 'wait_answered'];
      if (gone.includes(type)) this.waits.delete(path);
      const final = (type === 'tool_call_failed' && !has(facts.retry_ns) && !facts.in_doubt) || (type === 'model_call_failed' && !has(facts.retry_ns));
      if (final || ['tool_call_settled', 'effect_refused', 'timer_fired', 'wait_answered'].includes(type)) this.failed.set(path, this.events);
      if (type === 'tool_call_failed' && has(facts.retry_ns)) {
        const row = this.ledger.get(path);
        begin(facts.in_doubt ? 'settle' : facts.category === 'outage' ? 'outage' : 'retry', row ? row.tool : 'a tool', facts.retry_ns);
      } else if (type === 'model_call_failed' && has(facts.retry_ns)) begin(facts.category === 'outage' ? 'outage' : 'retry', 'the model', facts.retry_ns);
      else if (type === 'effect_held') begin(facts.why, facts.of, facts.wake_ns);
      else if (type === 'timer_started') begin('sleep', '', facts.wake_ns);
      else if (type === 'signal_awaited') begin('signal', facts.name, facts.wake_ns);
      else if (type === 'child_awaited') begin('child', facts.run, facts.wake_ns);
      else if (type === 'approval_awaited' || type === 'tool_approval_required' || (type === 'approval_requested' && !facts.pending)) begin('approval', facts.approval, facts.wake_ns);
    }

    call(type, event, facts) {
      const {path} = facts, row = this.ledger.get(path), seq = event.log_seq, time = event.timestamp;
      const begin = (attempt, status) => this.ledger.set(path, {tool: facts.tool, attempt, status, seq, writes: facts.side_effect === 'external_write', done: null,
        requested: time, updated: time, settled_by: null, compensating: false, resend: false, worker: attempt ? this.worker : null});
      if (type === 'tool_call_requested') {
        if (facts.side_effect !== 'external_write' && !('key' in facts)) return;
        begin(facts.attempt, 'RUNNING');
      } else if (type === 'tool_approval_required') {
        if (!row || !OPEN.includes(row.status)) begin(0, 'RESERVED');
      } else if (!row) return;
      else if (type === 'tool_call_completed') Object.assign(row, {status: 'SUCCEEDED', done: seq, updated: time});
      else if (type === 'tool_call_failed') Object.assign(row, {status: facts.in_doubt ? 'PENDING_VERIFICATION' : 'FAILED_NO_EFFECT', updated: time});
      else if (type === 'tool_call_settled') {
        Object.assign(row, {status: SETTLED[facts.outcome], updated: time, settled_by: facts.by, compensating: false, resend: facts.outcome === 'resent'});
        if (facts.outcome === 'succeeded') row.done = seq;
      } else if (type === 'effect_refused') {
        if (!OPEN.includes(row.status)) Object.assign(row, {status: 'FAILED_NO_EFFECT', updated: time});
      } else if (type === 'compensation_started') row.compensating = true;
      this.changed.push(path);
    }

    spend(type, event, facts, silent) {
      const row = this.costs.get(facts.path), last = event.timestamp;
      const add = (one, amounts, names, counts = true) => names.forEach((name) => {
        const amount = (amounts && amounts[name]) || 0;
        if (one) one[name] = Exact.plus(one[name], amount);
        if (counts) this.total[name] = Exact.plus(this.total[name], amount);
      });
      const begin = (calls, kind, name) => {
        const one = {calls, failed: 0, input_tokens: 0, output_tokens: 0, cached_tokens: 0, usd_nano: 0, seq: event.log_seq, kind, name, first: last, last};
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
          if (!silent) this.total.usd_nano = Exact.plus(this.total.usd_nano, (facts.spent && facts.spent.usd_nano) || 0);
        }
      }
    }

    /** Approvals and children. */
    ask(type, facts) {
      if (type === 'approval_requested' && facts.pending) this.pending.add(facts.approval);
      if (type === 'approval_decided') this.pending.delete(facts.approval);
      if (ENDS.includes(type)) this.pending.clear();
      if (type === 'approval_requested' || type === 'tool_approval_required') this.approvals.set(facts.approval, this.late.get(facts.approval) || 'pending');
      else if (type === 'approval_decided' && this.approvals.has(facts.approval)) this.approvals.set(facts.approval, facts.approved ? 'approved' : 'denied');
      else if (type === 'tool_call_requested' && has(facts.approval)) this.used.add(facts.approval);
      else if (type === 'child_run_requested') [this.children, this.names].forEach((map, at) => map.set(facts.run, at ? facts.agent : 'running'));
      else if (type === 'child_run_ended' && this.children.has(facts.run)) this.children.set(facts.run, facts.status);
      if (CLOSES.includes(type)) this.unheard(type, facts);
    }

    /** Questions that nobody listens to any more. */
    unheard(type, facts) {
      const waited = new Set([...this.waits.values()].filter((one) => one.kind === 'approval').map((one) => one.name));
      const why = type === 'timer_fired' || facts.error_type === 'ApprovalExpired' ? 'expired' : 'withdrawn';
      for (const [name, status] of this.approvals) {
        if (status !== 'pending' || (this.ended === null && (waited.has(name) || this.pending.has(name)))) continue;
        this.late.set(name, why);
        this.approvals.set(name, why);
      }
    }

    documents(type, facts, content, kept) {
      if (type === 'run_created') this.state = content.initial_state;
      else if (type === 'state_patch_committed') {
        const gone = Shown.UNSAID.includes(this.state) || Shown.UNSAID.includes(content.patch);
        [this.version, this.state, this.proposed] = [facts.version, gone ? Shown.UNSAID[0] : Exact.merge(this.state, content.patch), []];
      } else if (type === 'state_patch_proposed') this.proposed = [...this.proposed, {event: this.events, patch: content.patch}];
      else if (type === 'step_retry_scheduled' && facts.fresh) this.proposed = [];
      else if (kept !== undefined) this.proposed = this.proposed.filter((one) => one.event <= kept);
    }

    /** What went wrong, and whether it came right later. */
    fail(event, type, facts) {
      const right = (keys, more) => keys.forEach((key) => this.failures.has(key) && Object.assign(this.failures.get(key), more));
      const attempts = (path, count) => Array.from({length: Math.min(count, 100000)}, (_, at) => `${path}#${at + 1}`);
      if (type === 'tool_call_completed' || type === 'model_call_completed') right(attempts(facts.path, facts.attempt), {recovered: true});
      else if (type === 'tool_call_settled') right(attempts(facts.path, facts.attempt), {in_doubt: facts.outcome === 'resent', recovered: facts.outcome === 'succeeded'});
      else if (type === 'step_completed') right(attempts(`step:${facts.step}`, facts.epoch), {recovered: true});
      else if (KINDS[type] && !(type === 'child_run_ended' && facts.status === 'completed')) {
        const step = ['step_retry_scheduled', 'step_failed', 'lease_expired'].includes(type);
        const key = step ? `step:${facts.step}#${facts.epoch}` : type === 'effect_refused' ? `${facts.path}!` : type === 'child_run_ended' ? `child:${facts.run}`
          : has(facts.path) && has(facts.attempt) ? `${facts.path}#${facts.attempt}` : `${type}:${event.log_seq}`;
        const before = this.failures.get(key), whole = ['run_parked', 'run_cancelled'].includes(type);
        const name = has(facts.name) ? facts.name : type === 'child_run_ended' ? this.names.get(facts.run) || '' : whole ? this.agent
          : has(facts.path) && type !== 'divergence_detected' ? this.names.get(facts.path) || '' : this.stepAgent;
        const attempt = type === 'step_retry_scheduled' ? facts.attempt - 1 : has(facts.attempt) ? facts.attempt : this.attempt;
        this.failures.set(key, {kind: KINDS[type], name, attempt, seq: event.log_seq, first_seq: before ? before.first_seq : event.log_seq, times: 1 + (before ? before.times : 0),
          final: !has(facts.retry_ns) && !['step_retry_scheduled', 'lease_expired'].includes(type), in_doubt: type === 'tool_call_failed' && facts.in_doubt === true, recovered: false});
      }
    }

    get inDoubt() {
      let count = 0;
      for (const row of this.ledger.values()) count += row.writes && row.status === 'PENDING_VERIFICATION' ? 1 : 0;
      return count;
    }
  }

  return {Run, MONEY};
})();
