/* Whether the rows of the bundle's tables stand on the events that they name, and say what the second fold says.
 *
 * Rules: a row names its event by the log's seq; no two rows of a table name the same one, and no event that should
 * have a row is without one. Columns are compared with facts and contents of the event, or with the fold that
 * `follow.js` left in the check, where a row is found by the event that it stands on: calls at one path may be several.
 * This file folds nothing.
 */
'use strict';
const Rows = (() => {
  const {MONEY} = Calls;
  const none = (value) => (value === undefined ? null : value);

  /** Rows against the events that they name, and the other way round. */
  async function tables(check) {
    const {bundle, fold} = check,
      at = new Map(bundle.events.map((event) => [event.log_seq, event]));

    /** What every row says of where it belongs, and when. */
    function belongs(row, event) {
      const under = check.under.get(event) || {},
        wrong = [];
      const alike = (name, value) => name in row && row[name] !== none(value) && wrong.push(name);
      alike('run', fold.run);
      alike('session', fold.session);
      alike('step', under.step);
      if (event.type !== 'child_run_requested' && event.type !== 'step_created') alike('agent', under.agent);
      for (const name of ['time', 'requested', 'created', 'first'])
        if (name in row && !Exact.same(row[name], event.timestamp)) wrong.push(name);
      if (
        'usd' in row &&
        row.usd_nano !== null &&
        Math.abs(Exact.number(row.usd) - Exact.number(row.usd_nano) / 1e9) > 1e-9
      )
        wrong.push('usd');
      return wrong;
    }

    /**
     * Rows of a table, on events of some types. `columns` are facts or contents of the event; `more(row, event)` says
     * what else is not as it should be; `owed` are the events that must have a row.
     */
    async function stand(table, {types, columns = [], more = () => [], owed, seq = 'seq', free = []}) {
      const seen = new Set();
      for (const row of bundle[table]) {
        await check.breathe();
        const event = at.get(row[seq]);
        if (!event || (types && !types.includes(event.type)) || seen.has(event)) {
          check.wrong(
            'tables',
            event ? event.seq : null,
            `a row of the table of ${Say.words(table)} stands on seq ${row[seq]}, and should not`,
          );
          continue;
        }
        seen.add(event);
        const said = (name) => none(name in event.facts ? event.facts[name] : event.content[name]);
        const wrong = [
          ...columns.filter((name) => name in row && !Exact.same(row[name], said(name))),
          ...belongs(row, event).filter((name) => !free.includes(name)),
          ...more(row, event),
        ];
        if (wrong.length)
          check.wrong(
            'tables',
            event.seq,
            `the table of ${Say.words(table)} shows another ${wrong.join(', ')} than the events give`,
          );
        else check.right('tables');
      }
      for (const event of owed || bundle.events.filter((one) => types.includes(one.type))) {
        if (event && !seen.has(event))
          check.wrong('tables', event.seq, `has no row in the table of ${Say.words(table)}`);
      }
    }

    const unlikeOf = (one, names) => (row) =>
      one ? names.filter((name) => name in row && !Exact.same(row[name], one[name])) : ['call'];
    const found = (map) => new Map([...map.values()].map((one) => [one.seq, one]));
    const of = (map) => [...map.values()].map((one) => at.get(one.seq));
    await stand('tool_ledger', {
      types: ['tool_call_requested', 'tool_approval_required'],
      owed: of(fold.ledger),
      free: ['step', 'agent'],
      columns: ['path', 'tool', 'tool_version', 'side_effect', 'key', 'key_request', 'idempotency', 'arguments'],
      more: (row) =>
        unlikeOf(fold.ledger.get(row.path), [
          'seq',
          'status',
          'attempt',
          'done',
          'requested',
          'updated',
          'settled_by',
          'compensating',
          'resend',
          'worker',
        ])(row),
    });
    await stand('approvals', {
      types: ['approval_requested', 'tool_approval_required'],
      more: (row, event) => answer(row, event, bundle.events, fold),
      columns: ['path', 'approval', 'request', 'rule', 'tool', 'tool_version', 'arguments', 'asked'],
    });
    await stand('policy_decisions', {
      types: ['tool_permission_decided'],
      columns: ['path', 'attempt', 'tool', 'tool_version', 'verdict', 'policy', 'rule', 'approval', 'reason'],
    });
    const costs = found(fold.costs);
    await stand('cost_records', {
      types: ['tool_call_requested', 'model_call_requested', 'cost_recorded'],
      columns: ['path'],
      owed: of(fold.costs),
      more: (row) =>
        unlikeOf(costs.get(row.seq), ['kind', 'name', 'calls', 'failed', 'succeeded', 'first', 'last', ...MONEY])(row),
    });
    const models = found(fold.models);
    await stand('models', {
      types: ['model_call_requested'],
      columns: ['path', 'model', 'attempt'],
      owed: of(fold.models),
      more: (row) => model(row, models.get(row.seq)),
      free: ['step', 'agent', 'requested'],
    });
    for (const [table, schema] of [
      ['artifacts', 'agentledger.artifact.v0'],
      ['media_artifacts', 'agentledger.media.v0'],
      ['stream_checkpoints', 'agentledger.stream.v0'],
    ]) {
      await stand(table, {
        types: ['artifact_created'],
        columns: ['path', 'artifact', 'schema', 'media_kind', 'size', 'digest', 'manifest', 'data'],
        owed: bundle.events.filter((event) => event.type === 'artifact_created' && event.facts.schema === schema),
      });
    }
    await stand('children', {
      types: ['child_run_requested'],
      columns: ['path', 'agent'],
      more: (row, event) => {
        const end = bundle.events.find((one) => one.type === 'child_run_ended' && one.facts.run === row.child);
        const head = end ? {seq: end.facts.seq, hash: end.facts.hash} : null;
        const fits =
          row.child === event.facts.run &&
          row.status === (end ? end.facts.status : 'running') &&
          row.ended_seq === (end ? end.log_seq : null);
        return fits &&
          row.error_type === none(end && end.facts.error_type) &&
          (row.head === null ? !head : head && row.head.seq === head.seq && row.head.hash === head.hash)
          ? []
          : ['end'];
      },
    });
    await stand('steps', {
      types: ['step_created'],
      columns: ['step', 'number', 'agent'],
      seq: 'first_seq',
      more: (row) => {
        const end = bundle.events.find(
          (one) =>
            one.facts.step === row.step && ['step_completed', 'step_failed', 'step_cancelled'].includes(one.type),
        );
        return (row.ended === null) === !end && (!end || row.status === end.type.slice(5)) ? [] : ['end'];
      },
    });
    const failures = found(fold.failures);
    await stand('failures', {
      owed: of(fold.failures),
      more: (row, event) => failure(row, event, failures.get(row.seq)),
    });
    summary(check, bundle, fold);
  }

  /** An approval's answer, as its event says it. */
  function answer(row, event, events, fold) {
    const said = events.findLast((one) => one.type === 'approval_decided' && one.facts.approval === row.approval);
    if (row.kind !== (event.type === 'approval_requested' ? 'code' : 'tool')) return ['kind'];
    if (
      row.used !== fold.used.has(row.approval) ||
      (row.wake === null
        ? 'wake_ns' in event.facts
        : Math.abs(Exact.number(row.wake) - Exact.number(event.facts.wake_ns) / 1e9) > 1e-5)
    )
      return ['use'];
    if (!said)
      return row.decided_seq === null && row.decided === null && !['approved', 'denied'].includes(row.status)
        ? []
        : ['answer'];
    const fits =
      row.decided_seq === said.log_seq &&
      row.status === (said.facts.approved ? 'approved' : 'denied') &&
      Exact.same(row.decided, said.timestamp);
    return fits && Exact.same(row.by, said.content.by) && Exact.same(row.reason, said.content.reason) ? [] : ['answer'];
  }

  /** How a model call ended, and what its answer says that it took. */
  function model(row, one) {
    if (!one) return ['call'];
    const wrong = ['status', 'requested', 'ended', 'done'].filter((name) => !Exact.same(row[name], one[name]));
    const names = [...MONEY, 'proposed', 'streamed', 'category', 'error_type'];
    return [...wrong, ...names.filter((name) => name in row && !Exact.same(row[name], none(one.said[name])))];
  }

  /** A failure, its own words, and whether it came right. */
  function failure(row, event, one) {
    if (!one) return ['standing'];
    const {facts} = event,
      {facts: cause, content, log_seq: said_at} = one.cause,
      child = event.type === 'child_run_ended';
    const wrong = ['kind', 'name', 'attempt', 'first_seq', 'times', 'final', 'in_doubt', 'recovered'].filter(
      (name) => row[name] !== one[name],
    );
    if ('category' in cause && row.category !== cause.category) wrong.push('category');
    if ('error_type' in cause && row.error_type !== cause.error_type) wrong.push('error');
    if (!child && row.path !== none(facts.path)) wrong.push('path');
    if (row.child !== (child ? facts.run : null)) wrong.push('child');
    const said = 'message' in content ? content.message : 'reason' in content ? content.reason : null;
    if (row.message_seq !== null && row.message_seq !== said_at) wrong.push('message');
    if (row.message_seq === said_at && 'message' in row && !Exact.same(row.message, said)) wrong.push('message');
    return wrong;
  }

  function summary(check, bundle, fold) {
    const {summary: said, events} = bundle,
      first = events[0],
      last = events[events.length - 1],
      wrong = [];
    const alike = (name, value) => name in said && !Exact.same(said[name], none(value)) && wrong.push(name);
    if (!first) return;
    if (first.type === 'run_created') {
      for (const name of ['agent', 'parent', 'ancestor', 'ancestor_event', 'driver']) alike(name, first.facts[name]);
      if (first.facts.run !== bundle.run_id) wrong.push('run');
      alike('created', first.timestamp);
    }
    alike('run_id', fold.run);
    alike('session_id', fold.session);
    alike('updated', last.timestamp);
    alike('events', events.length);
    alike('status', fold.status);
    alike('waiting', fold.waiting);
    alike('in_doubt', fold.inDoubt);
    alike('state_version', fold.version);
    alike('entry_point', fold.entryPoint);
    alike('code_digest', fold.code === null ? null : `blake3:${fold.code}`);
    alike('output', bundle.final_state.output);
    for (const name of ['model_calls', 'tool_calls', ...MONEY]) alike(name, fold.total[name]);
    if (said.counts && !Exact.same(said.counts, Object.assign(Object.create(null), Object.fromEntries(fold.types))))
      wrong.push('counts');
    const gone = events.findLast((event) => event.type === 'step_failed' || event.type === 'step_retry_scheduled');
    alike('error_type', fold.status === 'failed' && gone ? gone.facts.error_type : null);
    alike('message', fold.status === 'failed' && gone ? gone.content.message : null);
    if (wrong.length)
      check.wrong('tables', null, `The summary shows another ${wrong.join(', ')} than the events give.`);
    else check.right('tables');
  }

  return {tables};
})();
