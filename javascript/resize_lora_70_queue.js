/* The buttons, and the queue. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.queue) return;

    const {count} = resizeLora.numbers;
    const {duration, plural, t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {imageText} = resizeLora.findWords;
    const {button, el, head, primaryButton, quiet, section, setText, show} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {chosenNames, isBlocked, ownActiveJobs} = resizeLora.choice;
    const {cancel, cancelOwn} = resizeLora.jobs;
    const {resizeChosen} = resizeLora.orders;
    const {drawSubject} = resizeLora.target;

    const parts = {
        run: null,
        cancel: null,
        queue: null,
        text: null,
        dismiss: null,
        list: null,
        rest: null,
        rows: new Map(),
    };

    function frameActions() {
        const box = el('section', {class: 'resize-lora-actions', 'aria-label': t('Run')});
        const stop = {
            id: 'resize_lora_interrupt',
            'data-action': 'cancel',
            title: t('Cancel the jobs of this page (Esc)'),
        };
        parts.run = primaryButton('', resizeChosen, {
            id: 'resize_lora_generate',
            title: 'Ctrl+Enter',
            'data-action': 'resize',
        });
        parts.cancel = button(t('Cancel'), cancelOwn, stop);
        box.append(parts.run, parts.cancel, resizeLora.bake.bakeButton(), ...resizeLora.extract.extractButtons());
        new ResizeObserver(() => {
            state.root.style.setProperty('--resize-lora-bar', `${box.offsetHeight}px`);
        }).observe(box);
        return box;
    }

    /* The button that resizes; null until the frame is drawn. */
    function runButton() {
        return parts.run;
    }

    function drawActions() {
        if (!parts.run) return;
        const names = chosenNames();
        const words = names.length > 1 ? t('Resize {n} LoRAs', {n: count(names.length)}) : t('Resize');
        setText(parts.run, names.length && state.busy ? `${words} · ${t('waiting for image')}` : words);
        parts.run.disabled = !names.length || state.pending.order || isBlocked(names);
        parts.cancel.disabled = !ownActiveJobs().length;
    }

    const MOST_JOBS = 50;

    function drawQueue() {
        if (!parts.queue) return;
        const jobs = [...state.jobs.values()].filter(isShownInQueue);
        show(parts.queue, jobs.length > 0);
        drawJobRows(jobs.slice(0, MOST_JOBS));
        drawQueueHead(jobs);
        drawSubject(state.files.get(state.current));
    }

    function drawJobRows(jobs) {
        const {rows} = parts;
        const gone = [...rows.keys()].filter(id => !jobs.some(job => job.id === id));
        for (const id of gone) {
            rows.get(id).remove();
            rows.delete(id);
        }
        for (const job of jobs) {
            if (!rows.has(job.id)) rows.set(job.id, parts.list.appendChild(makeJobRow(job)));
            fillJobRow(rows.get(job.id), job);
        }
    }

    /* Jobs in progress, but for the analysis that the target shows; and failed ones until they are dismissed. */
    function isShownInQueue(job) {
        if (job.kind === 'shrink') return false; // a run has a row of its own
        if (ENDED.includes(job.state)) {
            return job.state === 'failed' && !job.seen && !['analyse', 'spectra', 'bake_plan'].includes(job.kind);
        }
        if (job.kind === 'bake_plan') return false; // its dialog shows it
        return job.kind !== 'analyse' || job.name !== state.current || job.files > 1;
    }

    function drawQueueHead(jobs) {
        const active = jobs.filter(job => !ENDED.includes(job.state)).length;
        const failed = jobs.length - active;
        const texts = [
            active ? plural(active, '{n} job', '{n} jobs') : '',
            failed ? t('{n} failed', {n: count(failed)}) : '',
            active && state.secondsLeft != null ? duration(state.secondsLeft) : '',
        ];
        const more = jobs.length - MOST_JOBS;
        setText(parts.text, texts.filter(Boolean).join(' · '));
        show(parts.dismiss, failed > 1);
        setText(parts.rest, more > 0 ? t('and {n} more', {n: count(more)}) : '');
    }

    function frameQueue() {
        parts.queue = section(t('Queue'), 'queue', {hidden: true});
        parts.text = quiet('', {role: 'status'});
        parts.rest = quiet();
        parts.list = el('div', {class: 'resize-lora-jobs'});
        parts.dismiss = button(t('Dismiss all'), dismissFailed, {hidden: true, 'data-action': 'dismiss'});
        parts.queue.append(head(t('Queue'), parts.text, parts.dismiss), parts.list, parts.rest);
        return parts.queue;
    }

    function dismissFailed() {
        for (const job of state.jobs.values()) if (job.state === 'failed') job.seen = true;
        drawQueue();
    }

    function makeJobRow(job) {
        const row = el('div', {
            class: 'resize-lora-job',
            'data-key': job.id,
            'data-kind': job.kind,
            'data-name': job.name,
        });
        const range = {role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-label': job.title};
        row.parts = {
            title: el('span', {class: 'resize-lora-cut'}),
            text: quiet('', {role: 'status'}),
            fill: el('span', {class: 'resize-lora-fill'}),
            stop: button(t('Cancel'), () => dismiss(job.id), {'data-action': 'stop'}),
        };
        row.bar = el('span', {class: 'resize-lora-progress', ...range}, row.parts.fill);
        const open = job.kind === 'find' ? resizeLora.findView.showButton(job) : [];
        row.classList.toggle('resize-lora-job-find', job.kind === 'find');
        row.append(row.parts.title, row.parts.text, ...[open].flat(), row.parts.stop, row.bar);
        return row;
    }

    function dismiss(id) {
        const job = state.jobs.get(id);
        if (!ENDED.includes(job.state)) {
            cancel([id]);
            return;
        }
        job.seen = true;
        drawQueue();
    }

    function fillJobRow(row, job) {
        const percentDone = job.total ? (100 * job.done) / job.total : 0;
        const origin = state.ownJobs.has(job.id) ? '' : t('started elsewhere');
        setText(row.parts.title, ['resize', 'find'].includes(job.kind) ? job.name : job.title);
        row.parts.title.title = job.title;
        setText(row.parts.text, [origin, jobText(job)].filter(Boolean).join(' · '));
        row.classList.toggle('resize-lora-failed', job.state === 'failed');
        row.parts.fill.style.width = `${percentDone}%`;
        row.bar.setAttribute('aria-valuenow', String(Math.round(percentDone)));
        setText(row.parts.stop, job.state === 'failed' ? t('Dismiss') : t('Cancel'));
        row.parts.stop.setAttribute('aria-label', `${row.parts.stop.textContent}: ${job.title}`);
    }

    function jobText(job) {
        if (job.state === 'failed') return job.error ? errorText(job.error) : t('failed');
        if (job.state === 'waits') return t('waiting for the current image');
        if (job.state === 'queued') {
            return job.place ? plural(job.place, '{n} job ahead', '{n} jobs ahead') : t('queued');
        }
        const work =
            job.kind === 'compare' || (job.kind === 'find' && job.stage === 'image')
                ? [imageText(job)]
                : [fileText(job), layerText(job), job.stage && t(job.stage)];
        const left = job.seconds_left == null ? '' : duration(job.seconds_left);
        return [...work, left].filter(Boolean).join(', ');
    }

    function fileText(job) {
        return job.files > 1 ? t('file {n} of {all}', {n: job.file, all: job.files}) : '';
    }

    function layerText(job) {
        return job.total && job.kind !== 'restore_originals'
            ? t('layer {n} of {all}', {n: job.done, all: job.total})
            : '';
    }

    resizeLora.queue = {drawActions, drawQueue, frameActions, frameQueue, jobText, runButton};
})((window.resizeLora = window.resizeLora || {}));
