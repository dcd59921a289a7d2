/* A search for the smallest file while it runs, and what it found. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.findView) return;

    const {count, saving, size, sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {keptText, seedsText, trialText, withTrial} = resizeLora.findWords;
    const {shareText} = resizeLora.effect;
    const {errorText, messageText} = resizeLora.messages;
    const {button, el, primaryButton, quiet, setText, show} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {changedOptions} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {dialog, toast} = resizeLora.dialogs;
    const {drawImages} = resizeLora.findImages;
    const {cancel, follow, poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;

    /* Shows a search in its dialog. `form`: the dialog with its questions, where it is open. */
    function showFind(job, form) {
        const mine = {job, form, box: null, shown: null, view: 'slider', parts: {}};
        if (!form && state.finding) state.finding.box.close();
        const body = form ? form.body : el('div', {class: 'resize-lora-find'});
        body.tabIndex = -1;
        mine.parts.body = body;
        body.replaceChildren(...frame(mine));
        mine.box = form ? form.box : dialog(t('Find the smallest file'), body);
        state.finding = mine;
        mine.box.addEventListener('close', () => {
            if (state.finding === mine) state.finding = null;
            followFinds();
        });
        const note = state.toasts.get(job);
        if (note) note.close();
        state.toasts.delete(job);
        drawFind();
        body.focus();
    }

    function frame(mine) {
        const {parts} = mine;
        parts.title = el('strong');
        parts.status = el('span', {role: 'status', id: 'resize_lora_find_status'});
        parts.fill = el('span', {class: 'resize-lora-fill'});
        const bar = {class: 'resize-lora-progress', role: 'progressbar', 'aria-label': t('Progress')};
        parts.bar = el('span', {...bar, 'aria-valuemin': '0', 'aria-valuemax': '100'}, parts.fill);
        parts.going = el('p', {class: 'resize-lora-quiet'}, t('You can close this dialog. The search goes on.'));
        parts.figure = el('p', {
            id: 'resize_lora_find_figure',
            class: 'resize-lora-find-figure',
            'aria-live': 'polite',
        });
        parts.images = el('div', {class: 'resize-lora-find-stage'});
        parts.steps = el('div', {class: 'resize-lora-find-steps', id: 'resize_lora_find_steps'});
        parts.fault = el('p', {class: 'resize-lora-fault', role: 'alert'});
        return [
            el('p', {class: 'resize-lora-find-status'}, parts.title, parts.status),
            parts.bar,
            parts.figure,
            el('div', {class: 'resize-lora-find-seen'}, parts.images, parts.steps),
            parts.going,
            parts.fault,
            foot(mine),
        ];
    }

    function foot(mine) {
        const {parts} = mine;
        const own = action => ({id: `resize_lora_find_${action}`, 'data-action': `find-${action}`});
        parts.stop = button(t('Stop and use the best so far'), () => stop(mine), own('stop'));
        parts.cancel = button(t('Cancel the search'), () => cancel([mine.job]), own('cancel'));
        parts.again = button(t('Change the settings'), () => again(mine), own('again'));
        parts.smaller = button(t('Smaller'), () => more(mine, 'smaller'), {
            ...own('smaller'),
            title: t('Try a file that is 15 % smaller. Images are reused.'),
        });
        parts.larger = button(t('Larger'), () => more(mine, 'larger'), {
            ...own('larger'),
            title: t('Try a file that is 15 % larger. Images are reused.'),
        });
        parts.save = primaryButton(t('Save'), () => save(mine), own('save'));
        const all = ['cancel', 'stop', 'again', 'smaller', 'larger', 'save'].map(name => parts[name]);
        return el('div', {class: 'resize-lora-foot resize-lora-dialog-foot'}, el('span'), all);
    }

    /* Draws the open search, after each status. */
    function drawFind() {
        const mine = state.finding;
        const job = mine && state.jobs.get(mine.job);
        if (!mine) return;
        const found = job && job.state === 'done' ? job.result : null;
        const trials = found ? foundTrials(found) : state.trials.get(mine.job) || [];
        drawProgress(mine, job);
        drawTrial(mine, trialShown(mine, trials, found), found);
        drawSteps(mine, trials, found);
        drawButtons(mine, job, found);
    }

    function foundTrials(found) {
        return found.trials.reduce(withTrial, []);
    }

    /* The trial whose images are shown: the one that was chosen, else the best, else the last one. */
    function trialShown(mine, trials, found) {
        const chosen = mine.shown && trials.find(one => one.bytes === mine.shown);
        const job = state.jobs.get(mine.job);
        return chosen || (found ? found.best : job && job.trial) || null;
    }

    function drawProgress({parts, job: id}, job) {
        const isOver = Boolean(job) && ENDED.includes(job.state);
        const done = job && job.total ? Math.round((100 * job.done) / job.total) : 0;
        setText(parts.title, job ? job.name : '');
        setText(parts.status, progressText(id, job));
        parts.fill.style.width = `${done}%`;
        parts.bar.setAttribute('aria-valuenow', String(done));
        show(parts.bar, !isOver);
        show(parts.going, !isOver);
        const failed = job && job.state === 'failed' && job.error;
        setText(parts.fault, failed ? errorText(job.error) : '');
    }

    function progressText(id, job) {
        if (!job) return t('queued');
        if (job.state === 'done') return doneText(job.result);
        if (job.state === 'cancelled') return t('cancelled');
        if (job.state === 'failed') return t('failed');
        if (state.ending.has(id)) return t('Stops after this image…');
        return resizeLora.queue.jobText(job);
    }

    /* The figure below says what was found; where there is nothing to find, the server says why. */
    function doneText({best, images: made, text}) {
        return best && best.accepted ? t('{n} images', {n: count(made)}) : messageText(text);
    }

    function drawTrial(mine, trial, found) {
        const {parts} = mine;
        const isBest = Boolean(found) && found.best === trial;
        const key = JSON.stringify([trial, isBest]);
        if (mine.key === key) return;
        mine.key = key;
        parts.figure.replaceChildren(...(trial ? figure(mine, trial) : []));
        drawImages(mine, trial);
    }

    function figure({job: id}, trial) {
        const file = state.files.get((state.jobs.get(id) || {}).name);
        const change = file ? sizes(file.bytes, trial.bytes) : size(trial.bytes);
        const gain = file ? saving(file.bytes, trial.bytes) : '';
        return [
            el('strong', null, [change, gain].filter(Boolean).join(' · ')),
            el('span', null, keptText(trial)),
            quiet(verdict(trial)),
        ];
    }

    function verdict({accepted, fitted}) {
        const fits = accepted ? t('keeps the target') : t('does not keep the target');
        return fitted ? `${fits} · ${t('fitted')}` : fits;
    }

    /* What was tried, the largest first. Each line shows its images. */
    function drawSteps(mine, trials, found) {
        const {parts} = mine;
        const shown = trialShown(mine, trials, found);
        const key = JSON.stringify([trials, shown && shown.bytes, found && found.best]);
        if (parts.steps.dataset.key === key) return;
        parts.steps.dataset.key = key;
        const at = document.activeElement && document.activeElement.dataset.bytes;
        const title = el('strong', null, t('Sizes tried'));
        const lines = trials.map(trial => stepLine(mine, trial, {shown, found}));
        parts.steps.replaceChildren(...(trials.length ? [title, el('ul', null, lines)] : []));
        const same = at && [...parts.steps.querySelectorAll('button')].find(one => one.dataset.bytes === at);
        if (same) same.focus();
    }

    function stepLine(mine, trial, {shown, found}) {
        const isShown = Boolean(shown) && shown.bytes === trial.bytes;
        const isBest = Boolean(found && found.best) && found.best.bytes === trial.bytes;
        const work = () => {
            mine.shown = trial.bytes;
            drawFind();
        };
        const own = {
            class: 'resize-lora-find-step',
            'data-bytes': trial.bytes,
            'aria-pressed': String(isShown),
            'aria-label': `${trialText(trial)}, ${verdict(trial)}`,
            title: `${keptText(trial)}: ${verdict(trial)}`, // the worst image may decide
        };
        const mark = trial.accepted ? '✓' : '✗';
        const line = button('', work, own);
        line.append(
            el('span', {'aria-hidden': 'true'}, mark),
            el('span', null, size(trial.bytes)),
            el('span', null, shareText(trial.kept)),
            quiet(isBest ? t('best') : seedsText(trial.seeds)),
        );
        return el('li', null, line);
    }

    function drawButtons({parts, isSaving}, job, found) {
        const isOver = Boolean(job) && ENDED.includes(job.state);
        const isBest = Boolean(found && found.best);
        const isStopping = Boolean(job) && state.ending.has(job.id);
        const hadFocus = [parts.body, parts.stop, parts.cancel].includes(document.activeElement);
        [parts.stop, parts.cancel].forEach(one => show(one, !isOver));
        parts.stop.disabled = !job || job.state === 'queued' || isStopping;
        show(parts.again, isOver);
        show(parts.save, isBest && !found.result);
        parts.save.disabled = Boolean(isSaving);
        [parts.smaller, parts.larger].forEach(one => show(one, isBest));
        parts.smaller.disabled = !isBest || !found.smaller;
        parts.larger.disabled = !isBest || !found.larger;
        if (hadFocus && isOver) (parts.save.hidden ? parts.again : parts.save).focus();
    }

    /* The questions again, with the answers that led here where this dialog has them. */
    function again({job: id, form, box}) {
        const {name} = state.jobs.get(id);
        state.finding = null;
        if (form) {
            resizeLora.find.showForm(form);
            return;
        }
        box.close();
        resizeLora.find.openFind([name], {options: changedOptions()});
    }

    async function stop(mine) {
        state.ending.add(mine.job);
        drawFind();
        try {
            await call('find_stop', {job: mine.job});
        } catch (error) {
            state.ending.delete(mine.job);
            setText(mine.parts.fault, errorText(error));
        }
        poll();
    }

    function foundOf(mine) {
        return state.jobs.get(mine.job).result;
    }

    /* One step more, from the best. It is a job of its own in the same dialog. */
    async function more(mine, direction) {
        const {find} = foundOf(mine);
        const trials = foundTrials(foundOf(mine));
        mine.parts[direction].disabled = true;
        try {
            const {job} = await call('find_more', {find, direction});
            addOwnJobs([job]);
            state.trials.set(job, trials);
            Object.assign(mine, {job, shown: null});
            drawFind();
            mine.parts.body.focus();
        } catch (error) {
            mine.parts[direction].disabled = false;
            setText(mine.parts.fault, errorText(error));
        }
        poll();
    }

    async function save(mine) {
        mine.isSaving = true;
        drawFind();
        try {
            const {job} = await call('find_save', {find: foundOf(mine).find});
            mine.box.close();
            follow(job, toast(t('Saving…'), {stays: true}));
        } catch (error) {
            mine.isSaving = false;
            drawFind();
            setText(mine.parts.fault, errorText(error));
        }
    }

    function isOpen(id) {
        return Boolean(state.finding) && state.finding.job === id;
    }

    /* After each status: figures are kept for the dialog, and a search without its dialog has a toast. */
    function onStatus() {
        for (const job of state.jobs.values()) {
            if (job.kind !== 'find' || !job.trial) continue;
            state.trials.set(job.id, withTrial(state.trials.get(job.id) || [], job.trial));
        }
        drawFind();
        followFinds();
    }

    function followFinds() {
        for (const job of state.jobs.values()) {
            const isGoing = job.kind === 'find' && ['waits', 'running'].includes(job.state);
            if (!isGoing || !state.ownJobs.has(job.id) || state.toasts.has(job.id) || isOpen(job.id)) continue;
            const note = toast(`${job.title}: ${resizeLora.queue.jobText(job)}`, {stays: true});
            state.toasts.set(job.id, note);
            note.offer(
                showButton(job),
                button(t('Cancel'), () => cancel([job.id]), {'data-action': 'cancel'}),
            );
        }
    }

    function showButton(job, work = () => {}) {
        const open = () => {
            work();
            showFind(job.id, null);
            addOwnJobs([]);
        };
        return button(t('Show'), open, {'data-action': 'show-find', 'aria-label': `${t('Show')}: ${job.title}`});
    }

    /* A search ended. Where nobody looks at it, a toast says so; it stays where nothing was saved. */
    function endFind(job) {
        const isOwn = state.ownJobs.has(job.id);
        if (job.state === 'done' && job.result.result) resizeLora.results.addResult(job.result.result);
        state.ending.delete(job.id);
        if (isOpen(job.id)) addOwnJobs([]); // a reload need not report it again
        if (isOpen(job.id) || job.state !== 'done' || !isOwn) return;
        const note = toast(`${job.name}: ${messageText(job.result.text)}`, {stays: !job.result.result});
        note.offer(showButton(job, note.close));
    }

    /* What the last search about this LoRA found, in the dialog that begins another one. */
    function lastLine(form) {
        const isOf = job => job.kind === 'find' && job.name === form.names[0] && job.state !== 'failed';
        const job = [...state.jobs.values()].filter(isOf).pop();
        if (!job || job.state === 'cancelled') return [];
        const words = job.state === 'done' ? messageText(job.result.text) : resizeLora.queue.jobText(job);
        const open = button(t('Show'), () => showFind(job.id, form), {'data-action': 'show-last'});
        return el('p', {class: 'resize-lora-find-last'}, quiet(`${t('Last search')}: ${words}`), open);
    }

    resizeLora.findView = {endFind, lastLine, onStatus, showButton, showFind};
})((window.resizeLora = window.resizeLora || {}));
