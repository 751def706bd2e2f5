/* The run as a reader goes through it: its events in order, what it was after each, and its effects by path.
 *
 * Rules: an event's place counts from 1, as in the run's own stream; 0 is before the first. What the run was after an
 * event comes from merge patches: whole standings are kept every 64 events, so that any place is at most 63 patches
 * away. Effects are put together from events alone, by path: the first event that has a path says what the effect is.
 * This file draws nothing and checks nothing.
 */
'use strict';
const EVERY = 64;

/** Which family an event belongs to, by the beginning of its type, the first that fits. */
const FAMILIES = [
  ['model', 'Models', ['model_', 'tool_calls_proposed']],
  ['rule', 'Rules', ['tool_permission', 'tool_approval', 'effect_', 'budget_', 'policy_']],
  ['tool', 'Tools', ['tool_call_', 'compensation_', 'sandbox_']],
  ['wait', 'Waits', ['timer_', 'signal_', 'approval_', 'child_', 'wait_']],
  ['state', 'State', ['state_patch_', 'agent_result']],
  ['kept', 'Kept', ['value_', 'cost_', 'artifact_']],
  ['run', 'Run', ['run_', 'step_', 'lease_', 'divergence_', 'code_']],
  ['other', 'Other', ['']],
];
const familyOf = (type) => FAMILIES.find(([, , starts]) => starts.some((start) => type.startsWith(start)))[0];

/** Types that say that something went wrong, or that nobody knows. */
const TROUBLE = new Set([
  'tool_call_failed',
  'model_call_failed',
  'effect_refused',
  'step_retry_scheduled',
  'step_failed',
  'step_blocked',
  'lease_expired',
  'run_failed',
  'run_parked',
  'run_cancelled',
  'divergence_detected',
  'effect_abandoned',
]);

class Run {
  constructor(bundle) {
    this.bundle = bundle;
    this.events = bundle.events;
    this.size = this.events.length;
    this.start = this.size ? Exact.number(this.events[0].timestamp) : 0;
    this.end = this.size ? Exact.number(this.events[this.size - 1].timestamp) : 0;
    this.bySeq = new Map(this.events.map((event, at) => [event.log_seq, at + 1]));
    this.family = this.events.map((event) => familyOf(event.type));
    this.effects = new Map();
    this.steps = [];
    this.names = [];
    this.lists = new Map();
    this.events.forEach((event, at) => this.index(event, at + 1));
    this.whole = [Object.create(null)];
    this.last = {at: 0, standing: this.whole[0]};
  }

  at(place) {
    return this.events[place - 1];
  }

  /** Place of an event by its seq in the log; 0 for none of the run. */
  place(seq) {
    return this.bySeq.get(seq) || 0;
  }

  seconds(place) {
    return Exact.number(this.at(place).timestamp) - this.start;
  }

  trouble(place) {
    const event = this.at(place);
    return (
      TROUBLE.has(event.type) ||
      (event.type === 'child_run_ended' && event.facts.status !== 'completed') ||
      (event.type === 'approval_decided' && event.facts.approved === false)
    );
  }

  /** What the run was after the event at a place. */
  standing(place) {
    const mark = Math.min(Math.floor(place / EVERY), this.whole.length - 1);
    let {at, standing} = this.last;
    if (at > place || at < mark * EVERY) [at, standing] = [mark * EVERY, this.whole[mark]];
    while (at < place) {
      const frame = this.bundle.frames[at++];
      if (frame) standing = Exact.merge(standing, frame.patch);
      if (at % EVERY === 0 && this.whole.length === at / EVERY) this.whole.push(standing);
    }
    this.last = {at, standing};
    return standing;
  }

  index(event, place) {
    const {type, facts} = event;
    if (type === 'step_created')
      this.steps.push({
        step: facts.step,
        number: facts.number,
        agent: facts.agent,
        first: place,
        last: place,
        status: 'created',
      });
    const step = this.steps.find((one) => one.step === event.step_id);
    if (step) {
      step.last = place;
      if (type.startsWith('step_'))
        step.status =
          {
            step_claimed: 'running',
            step_released: facts.waiting ? 'waiting' : 'pending',
            step_retry_scheduled: 'retry_scheduled',
            step_completed: 'completed',
            step_failed: 'failed',
            step_cancelled: 'cancelled',
          }[type] || step.status;
    }
    const path = typeof facts.path === 'string' ? facts.path : null;
    const effect = path === null ? null : this.effect(event, path, place);
    if (effect) follow(effect, event, place);
    if (type === 'child_run_ended') {
      for (const one of this.effects.values())
        if (one.child === facts.run) [one.status, one.last] = [facts.status, place];
    }
    this.names.push(effect ? effect.name : '');
  }

  effect(event, path, place) {
    let found = this.effects.get(path);
    if (!found) {
      found = {
        path,
        step: event.step_id,
        kind: 'effect',
        name: '',
        first: place,
        last: place,
        places: [],
        status: '',
        attempts: 0,
        usd: 0,
        detail: '',
      };
      this.effects.set(path, found);
    }
    found.last = place;
    found.places.push(place);
    return found;
  }

  /** The messages that a mark stands for: some of an earlier list, as they were sent. */
  said(mark, name) {
    return (this.listsOf(name).get(mark.seq) || []).slice(mark.from, mark.from + mark.count);
  }

  /** The messages of a model's request, all that were sent. */
  messages({seq, content}) {
    return Array.isArray(content.messages) ? this.listsOf('messages').get(seq) : content.messages;
  }

  /** Lists of a name by the event that holds them, with what was said before in its place. */
  listsOf(name) {
    if (!this.lists.has(name)) {
      const lists = new Map(); // in order, so that what a list names is there before it
      for (const {seq, content} of this.events) {
        if (Array.isArray(content[name])) lists.set(seq, this.full(content[name], lists));
      }
      this.lists.set(name, lists);
    }
    return this.lists.get(name);
  }

  full(list, lists) {
    return list.flatMap((one) => {
      const mark = Exact.isMap(one) && Shown.BEFORE in one ? one[Shown.BEFORE] : undefined;
      if (mark === undefined) return [one];
      return mark === null ? [one.message] : (lists.get(mark.seq) || []).slice(mark.from, mark.from + mark.count);
    });
  }

  /** One line about an event. */
  gist(place) {
    const {type, facts} = this.at(place),
      parts = [];
    const name = this.names[place - 1] || facts.tool || facts.model || facts.name || facts.agent || '';
    if (name) parts.push(name);
    if (facts.attempt > 1) parts.push(`attempt ${facts.attempt}`);
    if (type === 'tool_permission_decided') parts.push(`${facts.verdict} by “${facts.rule}”`);
    else if (type === 'step_claimed') parts.push(`${facts.worker}, epoch ${facts.epoch}`);
    else if (type === 'step_released') parts.push(facts.waiting ? `waiting: ${facts.waiting}` : '');
    else if (type === 'approval_decided') parts.push(facts.approved ? 'approved' : 'denied');
    else if (type === 'state_patch_committed') parts.push(`version ${facts.version}`);
    else if (type === 'child_run_ended') parts.push(facts.run, facts.status);
    else if (type === 'signal_received') parts.push(facts.name);
    if (facts.error_type) parts.push(facts.error_type);
    if (facts.in_doubt) parts.push('in doubt');
    if (facts.outcome) parts.push(`${Say.words(facts.outcome)}, by ${facts.by}`);
    if (facts.input_tokens !== undefined)
      parts.push(`${Say.count(facts.input_tokens)} in, ${Say.count(facts.output_tokens || 0)} out`);
    if (facts.usd_nano) parts.push(Say.dollars(facts.usd_nano));
    return parts
      .filter(Boolean)
      .map((one) => Values.visible(String(one)))
      .join(' · ');
  }
}

/** What one more event says of its effect. */
function follow(effect, event, place) {
  const {type, facts} = event,
    is = (kind, name) => ([effect.kind, effect.name] = [kind, name === undefined ? effect.name : String(name)]);
  if (facts.attempt > effect.attempts) effect.attempts = facts.attempt;
  if (type === 'tool_call_requested' || type === 'tool_permission_decided' || type === 'tool_approval_required')
    is('tool', facts.tool);
  else if (type === 'tool_call_joined') is('tool', facts.tool);
  else if (type === 'model_call_requested') is('model', facts.model);
  else if (type === 'effect_refused' || type === 'effect_held') is(facts.effect, facts.name);
  else if (type === 'timer_started') is('sleep', 'sleep');
  else if (type === 'signal_awaited') is('signal', facts.name);
  else if (type === 'approval_requested' || type === 'approval_awaited') is('approval', facts.approval);
  else if (type === 'child_run_requested') is('child', facts.agent);
  else if (type === 'child_awaited') is('child', `join ${facts.run}`);
  else if (type === 'value_captured') is('value', facts.source === 'now' ? 'now' : facts.name);
  else if (type === 'state_patch_proposed') is('state', 'state patch');
  else if (type === 'cost_recorded') is('cost', facts.name);
  else if (type === 'artifact_created') is('artifact', facts.artifact);
  if (type === 'child_run_requested') effect.child = facts.run;
  if (type.endsWith('_requested') || type.endsWith('_awaited') || type === 'timer_started')
    [effect.status, effect.began] = ['open', effect.began || place];
  else if (type === 'tool_approval_required') effect.status = 'waiting';
  else if (type === 'effect_held') effect.status = 'held';
  else if (/_completed$|^timer_fired$|^wait_answered$|^tool_call_joined$/.test(type) && !type.startsWith('sandbox_'))
    effect.status = 'completed';
  else if (type.endsWith('_failed')) effect.status = facts.in_doubt ? 'PENDING_VERIFICATION' : 'failed';
  else if (type === 'effect_refused') effect.status = 'denied';
  else if (type === 'effect_abandoned') effect.status = 'withdrawn';
  else if (type === 'tool_call_settled')
    effect.status =
      {succeeded: 'completed', no_effect: 'FAILED_NO_EFFECT', compensated: 'COMPENSATED'}[facts.outcome] ||
      'PENDING_VERIFICATION';
  else if (['value_captured', 'state_patch_proposed', 'cost_recorded', 'artifact_created'].includes(type))
    effect.status = 'completed';
  if (facts.error_type) effect.detail = facts.error_type;
  const paid = facts.usd_nano !== undefined ? facts.usd_nano : facts.spent && facts.spent.usd_nano;
  if (paid) effect.usd += Exact.number(paid);
}
