/* Words about runs over a library and their files. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.runWords) return;

    const {count, size} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {spanText} = resizeLora.items;
    const {imageText} = resizeLora.findWords;
    const {shareText} = resizeLora.effect;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;

    const IMAGE_STAGES = ['image', 'make images']; // of a search, and of a fit

    /* Why a file is left alone, for one file and as the title of a group. A kind that this page does not know is shown
       as the server sent it. */
    function reasonText(kind) {
        const words = {
            broken: t('Cannot be read'),
            kind: t('Type that cannot be resized'),
            resized: t('Resized before'),
            link: t('Symbolic link'),
            hard_link: t('Has a second name on the disk'),
            copy: t('Same content as another LoRA'),
            read_only: t('Read-only'),
            reference: t('No matching base model'),
            missing: t('Not found'),
            gain: t('Gains too little'),
            floor: t('Below the retention floor'),
            weak: t('The prompt hardly shows the LoRA'),
            effect: t('No size keeps enough of the effect'),
            folder: t('In an excluded folder'),
            family: t('In an excluded family'),
            in_use: t('Open in another program'),
            changed: t('Changed in the meantime'),
            error: t('Error'),
        };
        return words[kind] || kind;
    }

    function stateText(kind) {
        const words = {
            waiting: t('waiting'),
            working: t('working…'),
            resized: t('resized'),
            left: t('left alone'),
            failed: t('failed'),
            restored: t('restored'),
            purged: t('original deleted'),
        };
        return words[kind] || kind;
    }

    /* What a row says about a file of a run besides its figures. */
    function itemNote(item) {
        if (item.state === 'left') return reasonText(item.reason) || messageText(item.message);
        if (item.state === 'failed') return messageText(item.message) || reasonText(item.reason);
        const notes = (item.notes || []).map(messageText);
        return [item.state === 'resized' ? '' : stateText(item.state), ...notes].filter(Boolean).join(' · ');
    }

    /* The preset of a recipe by name, else the recipe itself. */
    function recipeText(recipe) {
        const presets = (state.hello || {}).presets || {};
        const found = PRESETS.find(name => presets[name] === recipe || name === recipe);
        return found ? t(PRESET_WORDS[found]) : recipe;
    }

    /* How the files of a run are made: the recipe, or the target by images. */
    function madeText(run) {
        const how =
            run.effect == null ? recipeText(run.recipe) : t('By images, {share}', {share: shareText(run.effect)});
        return run.fit ? `${how} · ${t('fitted')}` : how;
    }

    function momentText(seconds) {
        const moment = new Date(1000 * seconds);
        const day = moment.toLocaleDateString(undefined, {day: 'numeric', month: 'short', year: 'numeric'});
        return `${day}, ${moment.toLocaleTimeString(undefined, {hour: '2-digit', minute: '2-digit'})}`;
    }

    function endText(run) {
        const texts = [
            t('{size} freed', {size: size(run.freed)}),
            t('{n} resized', {n: count(run.resized)}),
            run.left ? t('{n} left alone', {n: count(run.left)}) : '',
            run.failed ? t('{n} failed', {n: count(run.failed)}) : '',
            run.restored ? t('{n} restored', {n: count(run.restored)}) : '',
        ];
        return texts.filter(Boolean).join(' · ');
    }

    /* `job`: the job at work, for the image that it makes. */
    function workText(run, seconds, job = null) {
        const values = {done: count(run.done), n: count(run.files)};
        const isImage = job && IMAGE_STAGES.includes(job.stage);
        const texts = [
            run.effect != null || run.fit ? t('{done} of {n} LoRAs', values) : t('{done} of {n} files', values),
            isImage ? imageText(job) : '',
            t('{size} freed', {size: size(run.freed)}),
            run.failed ? t('{n} failed', {n: count(run.failed)}) : '',
            seconds == null ? '' : t('{time} left', {time: spanText(seconds)}),
        ];
        return texts.filter(Boolean).join(' · ');
    }

    /* What a run does or did, in one line; `job` is the job that works on it, if the page knows it. */
    function runText(run, job) {
        if (run.state === 'done') return endText(run);
        if (run.state === 'stopped') return `${t('Stopped')} · ${endText(run)}`;
        if (run.state === 'paused') {
            return [t('Paused'), messageText(run.message), workText(run, null)].filter(Boolean).join(' · ');
        }
        if (run.state === 'interrupted') return `${t('Interrupted when the server ended')} · ${workText(run, null)}`;
        if (job && job.state === 'waits') return `${t('waiting for the current image')} · ${workText(run, null)}`;
        if (job && job.state === 'queued') {
            const ahead = job.place ? plural(job.place, '{n} job ahead', '{n} jobs ahead') : t('queued');
            return `${ahead} · ${workText(run, null)}`;
        }
        return workText(run, job && job.seconds_left != null ? job.seconds_left : run.seconds_left, job);
    }

    resizeLora.runWords = {endText, itemNote, madeText, momentText, reasonText, recipeText, runText, stateText};
})((window.resizeLora = window.resizeLora || {}));
