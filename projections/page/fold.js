/* A second fold of a run: what its events say it was, after each of them.
 *
 * Rules: made a second time on purpose, from the events that are shown, with no code of the first (`ledger_core/run`):
 * two folds that agree say more than one. It follows status and waits, the step and its claim, the state document and
 * what is proposed for it, the tool ledger, costs, approvals, children and failures. Types that it does not know change
 * nothing. This file compares nothing.
 */
'use strict';
const Fold = (() => {
  const ENDS = ['step_completed', 'step_failed', 'step_cancelled'];
  const SWEEPS = ['step_released', 'lease_expired', 'step_retry_scheduled', ...ENDS];
  const ENDED = {run_completed: 'completed', run_failed: 'failed', run_cancelled: 'cancelled'};
  const CLOSES = [
    'step_created',
    'step_retry_scheduled',
    ...ENDS,
    'timer_fired',
    'effect_abandoned',
    'effect_refused',
    ...Object.keys(ENDED),
  ];
  const {has} = Calls;

  class Run extends Calls.Calls {
    constructor() {
      super();
      Object.assign(this, {
        events: 0,
        run: '',
        agent: '',
        session: null,
        status: 'pending',
        waiting: null,
        step: null,
        stepAgent: null,
        number: 0,
        attempt: 1,
        epoch: 0,
        worker: null,
        version: 0,
        state: Object.create(null),
        proposed: [],
        ended: null,
        entryPoint: null,
        code: null,
        used: new Set(),
        pending: new Set(),
      });
      for (const name of ['waits', 'failed', 'approvals', 'unanswered', 'children', 'types']) this[name] = new Map();
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
      const silent = this.late(type, facts);
      this.generation(type, facts);
      if (!silent) this.wait(type, facts);
      if (has(facts.path) && !silent) {
        this.call(type, event, facts);
        this.spend(type, event, facts);
      }
      this.work(type, facts, waited, kept);
      this.ask(type, facts);
      this.documents(type, facts, content, kept);
      this.ask_models(event, type, facts);
      if (!silent) this.fail(event, type, facts);
    }

    /** Status, step and claim. */
    work(type, facts, waited, kept) {
      const code = () =>
        ([this.entryPoint, this.code] = [
          has(facts.entry_point) ? facts.entry_point : null,
          has(facts.code_digest) ? facts.code_digest : null,
        ]);
      if (type === 'run_created') {
        [this.run, this.agent, this.session] = [facts.run, facts.agent, has(facts.session) ? facts.session : null];
        this.forked = has(facts.ancestor);
        code();
      } else if (type === 'step_created') {
        [this.step, this.number, this.stepAgent] = [facts.step, facts.number, facts.agent];
        if (facts.number > 1) {
          [this.status, this.waiting, this.attempt] = ['pending', null, 1];
          code();
        }
        this.waits.clear();
      } else if (type === 'step_claimed')
        [this.code, this.status, this.waiting, this.epoch, this.worker] = [
          facts.code_digest || this.code,
          'running',
          null,
          facts.epoch,
          facts.worker,
        ];
      else if (type === 'step_released') {
        this.worker = null;
        if (this.status === 'running') {
          this.waiting = has(facts.waiting) ? facts.waiting : null;
          this.status = this.waiting === null || this.waiting === 'yield' ? 'pending' : 'waiting';
        }
      } else if (type === 'lease_expired') {
        this.worker = null;
        if (this.status === 'running') [this.status, this.waiting] = ['pending', null];
      } else if (type === 'run_parked')
        [this.status, this.waiting] = ['parked', `${facts.losses} workers were lost with it`];
      else if (type === 'divergence_detected') [this.status, this.waiting] = ['diverged', facts.code];
      else if (type === 'step_retry_scheduled') {
        [this.worker, this.status, this.waiting, this.attempt] = [null, 'waiting', 'retry', facts.attempt];
        if (has(facts.reopened)) this.failed.delete(facts.reopened);
        if (facts.fresh) this.waits.clear();
        else if (kept !== undefined)
          for (const [path, one] of this.waits) if (one.event > kept) this.waits.delete(path);
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
      const {path} = facts,
        begin = (kind, name, wake) => this.waits.set(path, {kind, name, wake, event: this.events});
      const gone = [
        'tool_call_requested',
        'model_call_requested',
        'tool_call_completed',
        'tool_call_settled',
        'effect_abandoned',
        'effect_refused',
        'tool_call_joined',
        'timer_fired',
        'wait_answered',
      ];
      if (gone.includes(type)) this.waits.delete(path);
      const final =
        (type === 'tool_call_failed' && !has(facts.retry_ns) && !facts.in_doubt) ||
        (type === 'model_call_failed' && !has(facts.retry_ns));
      if (final || ['tool_call_settled', 'effect_refused', 'timer_fired', 'wait_answered'].includes(type))
        this.failed.set(path, this.events);
      if (type === 'tool_call_failed' && has(facts.retry_ns)) {
        const row = this.ledger.get(path);
        begin(
          facts.in_doubt ? 'settle' : facts.category === 'outage' ? 'outage' : 'retry',
          row ? row.tool : 'a tool',
          facts.retry_ns,
        );
      } else if (type === 'model_call_failed' && has(facts.retry_ns))
        begin(facts.category === 'outage' ? 'outage' : 'retry', 'the model', facts.retry_ns);
      else if (type === 'effect_held') begin(facts.why, facts.of, facts.wake_ns);
      else if (type === 'timer_started') begin('sleep', '', facts.wake_ns);
      else if (type === 'signal_awaited') begin('signal', facts.name, facts.wake_ns);
      else if (type === 'child_awaited') begin('child', facts.run, facts.wake_ns);
      else if (
        type === 'approval_awaited' ||
        type === 'tool_approval_required' ||
        (type === 'approval_requested' && !facts.pending)
      )
        begin('approval', facts.approval, facts.wake_ns);
    }

    /** Approvals and children. */
    ask(type, facts) {
      if (type === 'approval_requested' && facts.pending) this.pending.add(facts.approval);
      if (type === 'approval_decided') this.pending.delete(facts.approval);
      if (ENDS.includes(type)) this.pending.clear();
      if (type === 'approval_requested' || type === 'tool_approval_required')
        this.approvals.set(facts.approval, this.unanswered.get(facts.approval) || 'pending');
      else if (type === 'approval_decided' && this.approvals.has(facts.approval))
        this.approvals.set(facts.approval, facts.approved ? 'approved' : 'denied');
      else if (type === 'tool_call_requested' && has(facts.approval)) this.used.add(facts.approval);
      else if (type === 'child_run_requested')
        [this.children, this.kids].forEach((map, at) => map.set(facts.run, at ? facts.agent : 'running'));
      else if (type === 'child_run_ended' && (this.forked || this.children.has(facts.run))) this.children.set(facts.run, facts.status);
      if (CLOSES.includes(type)) this.unheard(type, facts);
    }

    /** Questions that nobody listens to any more. */
    unheard(type, facts) {
      const waited = new Set([...this.waits.values()].filter((one) => one.kind === 'approval').map((one) => one.name));
      const why = type === 'timer_fired' || facts.error_type === 'ApprovalExpired' ? 'expired' : 'withdrawn';
      for (const [name, status] of this.approvals) {
        if (status !== 'pending' || (this.ended === null && (waited.has(name) || this.pending.has(name)))) continue;
        this.unanswered.set(name, why);
        this.approvals.set(name, why);
      }
    }

    documents(type, facts, content, kept) {
      if (type === 'run_created') this.state = content.initial_state;
      else if (type === 'state_patch_committed') {
        const gone = Shown.UNSAID.includes(this.state) || Shown.UNSAID.includes(content.patch);
        [this.version, this.state, this.proposed] = [
          facts.version,
          gone ? Shown.UNSAID[0] : Exact.merge(this.state, content.patch),
          [],
        ];
      } else if (type === 'state_patch_proposed')
        this.proposed = [...this.proposed, {event: this.events, patch: content.patch}];
      else if (type === 'step_retry_scheduled' && facts.fresh) this.proposed = [];
      else if (kept !== undefined) this.proposed = this.proposed.filter((one) => one.event <= kept);
    }
  }

  return {Run};
})();
