/* The tables of the bundle: tool ledger, approvals and rules, costs, failures, children and artifacts.
 *
 * Rules: a row says what the bundle says, and leads to the event that it stands on. What is not there is an empty cell.
 * Sums in drawings are of the rows that are shown below them. This file folds nothing.
 */
'use strict';
const Tables = (() => {
  const link = (run, seq) =>
    run.place(seq) ? go(run.place(seq)) : seq === null || seq === undefined ? '' : String(seq);
  const code = (text) =>
    text === null || text === undefined || text === ''
      ? ''
      : el('code', null, Values.visible(Say.short(String(text), 40)));
  const name = (text) => (text === null || text === undefined ? '' : Values.visible(Say.short(String(text), 60)));
  const after = (run, seconds) =>
    seconds === null || seconds === undefined
      ? ''
      : el('span', {title: Say.time(seconds, true)}, `+${Say.span(Exact.number(seconds) - run.start)}`);
  const event = (run) => ['Event', (row) => link(run, row.seq), 'seq'];

  /** A document in a cell: one line that opens. */
  function document_(value) {
    if (value === null || value === undefined) return '';
    if (!Values.isTree(value) && String(value).length < 60) return Values.line(value);
    const details = el('details', {class: 'cell'}, el('summary', null, Values.line(value, 48)));
    details.addEventListener(
      'toggle',
      () =>
        details.open &&
        details.childElementCount === 1 &&
        details.append(el('div', {class: 'data'}, Values.tree(value))),
    );
    return details;
  }

  function toolLedger(run) {
    const {tool_ledger: rows} = run.bundle;
    return [
      Lists.table(
        'Every outside write of this run, and what became of it',
        rows,
        [
          event(run),
          ['Tool', (row) => el('b', null, name(row.tool)), 'main'],
          [
            'Status',
            (row) => [
              mark(row.status),
              row.compensating ? el('small', null, 'being undone') : null,
              row.settled_by ? el('small', null, `settled by ${row.settled_by}`) : null,
            ],
          ],
          ['Path', (row) => code(row.path)],
          ['Asked', (row) => document_(row.arguments)],
          ['Attempt', (row) => Say.count(row.attempt), 'number'],
          ['Requested', (row) => after(run, row.requested), 'number'],
          [
            'Took',
            (row) =>
              row.updated && row.requested ? Say.span(Exact.number(row.updated) - Exact.number(row.requested)) : '',
            'number',
          ],
          ['Done', (row) => link(run, row.done), 'seq'],
          ['Idempotency key', (row) => code(row.idempotency_key || row.idempotency)],
        ],
        'This run wrote nothing outside.',
      ),
    ];
  }

  function approvals(run) {
    const {approvals: asked, policy_decisions: decided} = run.bundle;
    return [
      Lists.table(
        'What people were asked',
        asked,
        [
          event(run),
          [
            'Question',
            (row) =>
              row.tool
                ? [el('b', null, name(row.tool)), ' ', document_(row.arguments)]
                : document_(Exact.isMap(row.asked) && 'question' in row.asked ? row.asked.question : row.asked),
            'main',
          ],
          ['Answer', (row) => [mark(row.status), row.used ? el('small', null, 'used') : null]],
          ['By', (row) => name(row.by)],
          ['Reason', (row) => document_(row.reason)],
          ['Rule', (row) => name(row.rule)],
          ['Asked', (row) => after(run, row.requested), 'number'],
          [
            'Waited',
            (row) => (row.decided ? Say.span(Exact.number(row.decided) - Exact.number(row.requested)) : ''),
            'number',
          ],
          ['Answered', (row) => link(run, row.decided_seq), 'seq'],
          ['Approval', (row) => code(row.approval)],
        ],
        'Nobody was asked.',
      ),
      Lists.table(
        'What the policy decided',
        decided,
        [
          event(run),
          ['Tool', (row) => el('b', null, name(row.tool)), 'main'],
          ['Verdict', (row) => mark(row.verdict)],
          ['Rule', (row) => name(row.rule)],
          ['Reason', (row) => document_(row.reason)],
          ['Path', (row) => code(row.path)],
          ['Attempt', (row) => Say.count(row.attempt), 'number'],
          ['Policy', (row) => code(Say.short(String(row.policy), 12))],
        ],
        'No policy was asked.',
      ),
    ];
  }

  const tokens = ['input_tokens', 'output_tokens', 'cached_tokens'];
  const number = (row, column) => Exact.number(row[column]);

  /** Rows summed by a key, the dearest first. */
  function summed(rows, key) {
    const found = new Map();
    for (const row of rows) {
      const one = found.get(key(row)) || {calls: 0, usd_nano: 0, input_tokens: 0, output_tokens: 0, cached_tokens: 0};
      for (const column of Object.keys(one)) one[column] += number(row, column);
      found.set(key(row), one);
    }
    return [...found].sort(([, a], [, b]) => b.usd_nano - a.usd_nano || b.calls - a.calls);
  }

  function costs(run) {
    const rows = run.bundle.cost_records;
    if (!rows.length) return [el('p', {class: 'nothing'}, 'Nothing was called, and nothing was spent.')];
    const grown = [...rows].sort((a, b) => number(a, 'last') - number(b, 'last'));
    let sum = 0;
    const points = [
      [0, 0],
      ...grown.map((row) => [Math.max(0, number(row, 'last') - run.start), (sum += number(row, 'usd_nano'))]),
    ];
    const byName = summed(rows, (row) => `${row.name}`),
      models = summed(
        rows.filter((row) => row.kind === 'model'),
        (row) => `${row.name}`,
      );
    const figure = (title, drawing) => el('figure', null, el('figcaption', null, title), drawing);
    const dear = byName
      .slice(0, 12)
      .map(([key, one]) => [
        key,
        [one.usd_nano],
        one.calls ? `${Say.dollars(one.usd_nano)} · ${Say.many(one.calls, 'call')}` : Say.dollars(one.usd_nano),
      ]);
    const said = models.slice(0, 12).map(([key, one]) => {
      const cached = Math.min(one.cached_tokens, one.input_tokens);
      return [
        key,
        [cached, one.input_tokens - cached, one.output_tokens],
        Say.count(one.input_tokens + one.output_tokens),
      ];
    });
    return [
      el(
        'div',
        {class: 'figures'},
        figure('Cost over time', Charts.growth(points, 'Cost over time', Say.dollars)),
        figure('Cost by model, tool and record', Charts.bars(dear, 'Cost by name')),
        figure(
          'Tokens by model',
          Charts.bars(said, 'Tokens by model', ['input, kept by the provider', 'input', 'output']),
        ),
      ),
      Lists.table(
        'What each call cost',
        rows,
        [
          event(run),
          ['Name', (row) => el('b', null, name(row.name)), 'main'],
          ['Kind', (row) => row.kind],
          ['Cost', (row) => (number(row, 'usd_nano') ? Say.dollars(row.usd_nano) : ''), 'number'],
          ...tokens.map((column) => [
            {input_tokens: 'Input', output_tokens: 'Output', cached_tokens: 'Kept'}[column],
            (row) => (number(row, column) ? Say.count(row[column]) : ''),
            'number',
          ]),
          ['Calls', (row) => Say.count(row.calls), 'number'],
          ['Failed', (row) => (number(row, 'failed') ? Say.count(row.failed) : ''), 'number'],
          ['Began', (row) => after(run, row.first), 'number'],
          ['Path', (row) => code(row.path)],
        ],
        '',
      ),
    ];
  }

  function failures(run) {
    return [
      Lists.table(
        'Everything that went wrong, and whether it came right',
        run.bundle.failures,
        [
          event(run),
          ['What', (row) => [el('b', null, name(row.name)), ' ', el('small', null, row.kind)], 'main'],
          [
            'How it stands',
            (row) => [
              row.in_doubt
                ? mark('PENDING_VERIFICATION')
                : row.recovered
                  ? mark('recovered')
                  : row.final
                    ? mark('failed')
                    : el('span', {class: 'mark wait'}, 'to be tried again'),
            ],
          ],
          [
            'Error',
            (row) => [
              el('span', {class: 'error'}, name(row.error_type)),
              ' ',
              el('small', null, name(Say.words(row.category))),
            ],
          ],
          ['Words', (row) => document_(row.message)],
          ['Attempt', (row) => Say.count(row.attempt || 1), 'number'],
          ['When', (row) => after(run, row.time), 'number'],
          ['Path', (row) => code(row.path)],
          ['Child', (row) => code(row.child)],
        ],
        'Nothing went wrong.',
      ),
    ];
  }

  function kept(run) {
    const {children, artifacts, media_artifacts: media, stream_checkpoints: streams} = run.bundle;
    const title = (row) =>
      el(
        'b',
        null,
        name(
          Exact.isMap(row.manifest)
            ? row.manifest.name || row.manifest.ref || row.manifest.stream_id || row.artifact
            : row.artifact,
        ),
      );
    const manifest = ['Manifest', (row) => document_(row.manifest)];
    const id = ['Artifact', (row) => code(row.artifact)];
    return [
      Lists.table(
        'Runs that this run started',
        children,
        [
          event(run),
          ['Agent', (row) => el('b', null, name(row.agent)), 'main'],
          ['Status', (row) => mark(row.status)],
          ['Run', (row) => code(row.child)],
          ['Path', (row) => code(row.path)],
          ['Ended', (row) => link(run, row.ended_seq), 'seq'],
          ['Its last event', (row) => (row.head ? code(`${row.head.seq}:${row.head.hash}`) : '')],
          ['Error', (row) => name(row.error_type)],
        ],
        'It started no other run.',
      ),
      Lists.table(
        'Artifacts',
        artifacts,
        [
          event(run),
          ['Name', title, 'main'],
          ['Size', (row) => (row.size === null ? '' : `${Say.count(row.size)} B`), 'number'],
          manifest,
          ['Data', (row) => document_(row.data)],
          ['Path', (row) => code(row.path)],
          id,
        ],
        'It kept no artifact.',
      ),
      media.length > 0 &&
        Lists.table(
          'Media that are stored elsewhere',
          media,
          [
            event(run),
            ['Reference', title, 'main'],
            ['Kind', (row) => name(row.media_kind)],
            manifest,
            ['Path', (row) => code(row.path)],
            id,
          ],
          '',
        ),
      streams.length > 0 &&
        Lists.table(
          'Places in streams',
          streams,
          [event(run), ['Stream', title, 'main'], manifest, ['Path', (row) => code(row.path)], id],
          '',
        ),
    ];
  }

  return {toolLedger, approvals, costs, failures, kept};
})();
