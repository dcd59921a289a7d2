/* The dialog *Shrink library*: a plan over many LoRAs, before anything is written. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.shrink) return;

    const {count, size, sizes} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {familyCounts, folderCounts, roomNeeded} = resizeLora.sums;
    const {spanText} = resizeLora.items;
    const {button, checkbox, el, primaryButton, quiet, setText, show} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;
    const {call} = resizeLora.wire;
    const {dialog, showError} = resizeLora.dialogs;
    const {start} = resizeLora.session;
    const {poll} = resizeLora.jobs;
    const {afterOf, chosen, faultText, firstPreset, planNow, planShown, readPlan, recipeNow, runQuestion} =
        resizeLora.shrinkPlan;
    const {scopedRows, sumsNow} = resizeLora.shrinkPlan;
    const {drawImages, frameImages, imagesFault, imagesNote, isByImages, newImages, secondsOf} =
        resizeLora.shrinkImages;
    const {askToNotify, startRun} = resizeLora.runs;
    const {isAtOnce, setAtOnce} = resizeLora.replacing;
    const {exclusion, floorText, leftList, percentField, presetTable, radioRow} = resizeLora.shrinkFields;

    const parts = {
        box: null, // the dialog; null where it is not open
        isSent: false,
        scope: null,
        presets: null,
        floor: null,
        folders: null,
        families: null,
        left: null,
        originals: null,
        archive: null,
        sure: null,
        foot: null,
        total: null,
        unknown: null,
        estimate: null,
        fault: null,
        run: null,
    };

    function shrinkButton() {
        return button(t('Shrink library…'), () => openShrink('all'), {
            id: 'resize_lora_shrink',
            'data-action': 'shrink',
            title: t('Replace LoRAs by smaller files of the same name'),
        });
    }

    /* The button in the foot of the library, about the selection, else about what the filter shows. */
    function footButton() {
        parts.foot = button('', () => openShrink(footScope()), {'data-action': 'shrink-foot', hidden: true});
        return parts.foot;
    }

    function footScope() {
        return chosen('selected').size > 1 ? 'selected' : 'filtered';
    }

    function drawFootButton() {
        if (!parts.foot) return;
        const scope = footScope();
        const n = chosen(scope).size;
        const words = scope === 'selected' ? t('Shrink {n} selected…', {n: count(n)}) : t('Shrink {n} shown…', {n});
        setText(parts.foot, words);
        show(parts.foot, n > 0 && (scope === 'selected' || n < state.files.size));
    }

    async function openShrink(scope, name = null) {
        try {
            await start();
        } catch (error) {
            showError(error);
            return;
        }
        const images = newImages(() => change({}, true));
        const fresh = {isOpen: true, isSure: false, images, plans: new Map(), lastPlan: null};
        Object.assign(state.shrink, {scope, name, preset: firstPreset(name), ...fresh});
        parts.isSent = false;
        const title = name ? t('Replace {name}', {name}) : t('Shrink library');
        parts.box = dialog(title, el('div', {class: 'resize-lora-shrink'}, frame()));
        parts.box.addEventListener('close', () => {
            parts.box = null;
            state.shrink.isOpen = false;
        });
        drawShrink();
        parts.box.querySelector('.resize-lora-sums :checked').focus();
        readPlan();
    }

    function frame() {
        parts.scope = radioRow('scope', t('LoRAs'), ['all', 'selected', 'filtered'], scope => change({scope}));
        const words = Object.fromEntries(PRESETS.map(name => [name, t(PRESET_WORDS[name])]));
        const all = {...words, panel: t('As set in the tab'), images: t('By images')};
        parts.presets = presetTable(all, preset => change({preset}, true));
        parts.presets.note('images', imagesNote(), Boolean(imagesFault()));
        parts.unknown = el('span');
        parts.estimate = button(t('Estimate'), estimate, {'data-action': 'estimate'});
        parts.left = leftList();
        return [
            state.shrink.name ? [] : parts.scope.box,
            parts.presets.box,
            el('p', {class: 'resize-lora-unknown'}, parts.unknown, parts.estimate),
            frameImages(),
            frameLimits(),
            frameOriginals(),
            parts.left.box,
            frameFoot(),
        ];
    }

    function frameLimits() {
        const {shrink} = state;
        const gain = percentField('resize_lora_least_gain', t('Least gain, %'), shrink.leastGain, {
            hint: t('A LoRA that would become smaller by less is left alone'),
            work: leastGain => change({leastGain}),
        });
        const floor = percentField('resize_lora_floor', t('Retention floor, %'), shrink.floor, {
            hint: t('A LoRA whose weight retention would be below is left alone'),
            isOptional: true,
            work: value => change({floor: value}),
        });
        const again = checkbox('resize_lora_again', t('Also those resized before'), shrink.again, on => {
            change({again: on}, true);
        });
        const changed = () => change({});
        const rootText = folder => folder || t('(LoRA folder)');
        parts.floor = quiet();
        parts.folders = exclusion(t('Excluded folders'), 'folders', {
            excluded: shrink.folders,
            words: rootText,
            changed,
        });
        parts.families = exclusion(t('Excluded families'), 'families', {
            excluded: shrink.families,
            words: family => family,
            changed,
        });
        const fields = el('div', {class: 'resize-lora-limits'}, gain, floor, again);
        const more = state.shrink.name ? [] : [parts.folders.box, parts.families.box];
        return el('fieldset', null, el('legend', null, t('Leave alone')), fields, parts.floor, more);
    }

    function frameOriginals() {
        parts.originals = radioRow('originals', t('Originals'), ['archive', 'none'], originals => change({originals}));
        parts.archive = el('p', {class: 'resize-lora-quiet'});
        parts.sure = checkbox('resize_lora_sure', t('Delete the originals. They cannot be restored.'), false, on => {
            state.shrink.isSure = on;
            drawShrink();
        });
        const title = el('legend', null, t('Originals'));
        return el('fieldset', null, title, parts.originals.box, parts.archive, parts.sure);
    }

    function frameFoot() {
        parts.total = el('strong', {role: 'status'});
        parts.fault = el('span', {class: 'resize-lora-fault', role: 'alert'});
        parts.run = primaryButton('', run, {'data-action': 'run'});
        const cancel = button(t('Cancel'), () => parts.box.close(), {'data-action': 'cancel'});
        const atOnce = checkbox('resize_lora_at_once', t('Next time, replace at once'), isAtOnce(), setAtOnce);
        const text = el('span', {class: 'resize-lora-shrink-total'}, parts.total, parts.fault);
        return [
            state.shrink.name ? atOnce : [],
            el('div', {class: 'resize-lora-foot resize-lora-dialog-foot'}, text, cancel, parts.run),
        ];
    }

    /* `isOther`: there may be another plan of this choice. */
    function change(values, isOther) {
        Object.assign(state.shrink, values);
        if (isOther) readPlan();
        drawShrink();
    }

    function drawShrink() {
        if (!parts.box) return;
        const {shrink} = state;
        const plan = planShown();
        const {rows, sums} = sumsNow(plan);
        const mine = sums[shrink.preset] || null;
        drawScope();
        parts.presets.draw(shrink.preset, sums);
        parts.box.setAttribute('aria-busy', String(!planNow()));
        parts.presets.box.classList.toggle('resize-lora-stale', Boolean(plan) && !planNow());
        setText(parts.floor, floorText(shrink.floor == null ? null : shrink.floor / 100, recipeNow()));
        drawImages(plan, mine);
        drawUnknown(mine);
        if (plan) {
            parts.folders.draw(folderCounts(rows));
            parts.families.draw(familyCounts(rows));
            parts.left.draw(mine.left);
        }
        drawOriginals(plan, mine);
        drawTotal(plan, mine);
    }

    function drawScope() {
        const text = (scope, words) => {
            const n = chosen(scope).size;
            return n ? {[scope]: words({n: count(n)})} : {};
        };
        const isFiltered = state.shown.length < state.files.size;
        parts.scope.draw(state.shrink.scope, {
            ...text('all', values => t('All {n}', values)),
            ...text('selected', values => t('Selected {n}', values)),
            ...(isFiltered ? text('filtered', values => t('Shown {n}', values)) : {}),
        });
    }

    function drawUnknown(sums) {
        const {files, bytes} = sums ? sums.unknown : {files: 0, bytes: 0};
        const isEstimating = [...state.jobs.values()].some(
            job => job.kind === 'estimate' && ['queued', 'running', 'waits'].includes(job.state),
        );
        const found = plural(
            files,
            '{n} LoRA, {size}. Its new size is found by images.',
            '{n} LoRAs, {size}. Their new sizes are found by images.',
            {size: size(bytes)},
        );
        const words = plural(
            files,
            '{n} LoRA, {size}, is not estimated yet. It is part of the run, and not of these sums.',
            '{n} LoRAs, {size}, are not estimated yet. They are part of the run, and not of these sums.',
            {size: size(bytes)},
        );
        show(parts.unknown.parentElement, files > 0);
        setText(parts.unknown, isByImages() ? found : words);
        setText(parts.estimate, isEstimating ? t('Estimating…') : t('Estimate'));
        show(parts.estimate, PRESETS.includes(state.shrink.preset));
        parts.estimate.disabled = isEstimating;
    }

    async function estimate() {
        const plan = planNow();
        if (!plan) return;
        const names = scopedRows(plan)
            .filter(row => !row.left && afterOf(row, state.shrink.preset) == null)
            .map(row => row.name);
        try {
            await call('estimate', {names});
            await poll();
        } catch (error) {
            showError(error);
        }
        drawShrink();
    }

    function drawOriginals(plan, sums) {
        const {originals} = state.shrink;
        parts.originals.draw(originals, {
            archive: t('Keep in the archive'),
            none: t('Keep no originals'),
        });
        setText(parts.archive, originals === 'archive' && plan ? archiveText(plan.archive, sums) : '');
        show(parts.archive, originals === 'archive');
        show(parts.sure, originals === 'none');
    }

    function archiveText(archive, sums) {
        const needed = size(roomNeeded(sums, archive.same_disk));
        const texts = [
            archive.folder || t('next to the LoRA folder'),
            archive.free == null ? '' : t('{free} free, {needed} needed', {free: size(archive.free), needed}),
            archive.same_disk ? t('the disk has more free space once originals are deleted from the archive') : '',
        ];
        return `${texts.filter(Boolean).join(' · ')}.`;
    }

    function drawTotal(plan, sums) {
        const fault = faultText(plan, sums);
        const isUnsure = state.shrink.originals === 'none' && !state.shrink.isSure;
        setText(parts.total, plan ? totalText(plan, sums) : t('Reading…'));
        setText(parts.fault, fault);
        setText(parts.run, runWords(sums ? sums.files : 0));
        parts.run.disabled = !planNow() || Boolean(fault) || isUnsure || parts.isSent;
    }

    function runWords(n) {
        if (state.shrink.name) return t('Replace');
        return plural(n, 'Shrink {n} LoRA', 'Shrink {n} LoRAs');
    }

    function totalText(plan, sums) {
        if (!sums.files) return '';
        const isKnown = sums.files > sums.unknown.files;
        const texts = [
            isKnown ? sizes(sums.before, sums.after) : '',
            isKnown ? t('{size} freed', {size: size(sums.freed)}) : '',
            timeText(plan, sums),
        ];
        return texts.filter(Boolean).join(' · ');
    }

    function timeText(plan, sums) {
        const images = secondsOf(plan, sums.files);
        const files = isByImages() ? 0 : plan.pace; // a search takes as long as its images
        if (files == null || images == null) return t('time known after the first files');
        return t('about {time}', {time: spanText(files * sums.source + images)});
    }

    async function run() {
        askToNotify();
        parts.isSent = true;
        drawShrink();
        try {
            await startRun(runQuestion());
            if (parts.box) parts.box.close();
        } catch (error) {
            showError(error);
        } finally {
            parts.isSent = false;
            drawShrink();
        }
    }

    resizeLora.shrink = {
        drawFootButton,
        drawShrink,
        footButton,
        openShrink,
        shrinkButton,
    };
})((window.resizeLora = window.resizeLora || {}));
