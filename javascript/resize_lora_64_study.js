/* Analysis of one LoRA: spectra, effective ranks, retention and bytes. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.study) return;

    const {t} = resizeLora.words;
    const {button, el, head, later, section, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {call} = resizeLora.wire;
    const {showError} = resizeLora.dialogs;
    const {poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;
    const {bytesPlot, curvesPlot, heatMap, spectraPlot} = resizeLora.studyPlots;

    const parts = {run: null, title: null, body: null};

    function frameStudy() {
        const box = section(t('Analysis'), 'study');
        parts.run = button(t('Analyse'), startStudy, {id: 'resize_lora_look'});
        parts.title = el('span', {class: 'resize-lora-quiet resize-lora-cut'});
        parts.body = el('div', {id: 'resize_lora_study_body', class: 'resize-lora-study-body', hidden: true});
        box.append(head(t('Analysis'), parts.title, parts.run), parts.body);
        new ResizeObserver(later(drawStudy, 120)).observe(parts.body);
        drawStudyHead();
        return box;
    }

    function drawStudyHead() {
        if (!parts.run) return;
        const file = state.files.get(state.current);
        const idle = state.study.result ? state.study.result.name : t('Rank, energy and file size by block.');
        parts.run.disabled = !file || Boolean(file.problem) || Boolean(state.study.job);
        setText(parts.title, state.study.job ? t('analysing…') : idle);
    }

    async function startStudy() {
        try {
            const {job} = await call('spectra', {name: state.current});
            state.study.job = job;
            addOwnJobs([job]);
            drawStudyHead();
            poll();
        } catch (error) {
            showError(error);
        }
    }

    function endStudy(job) {
        if (job.id !== state.study.job) return;
        state.study.job = null;
        if (job.state === 'done' && job.result) state.study.result = job.result;
        if (job.state === 'failed' && job.error) showError(job.error);
        state.study.key = '';
        drawStudyHead();
        show(parts.body, Boolean(state.study.result));
        drawStudy();
    }

    function drawStudy() {
        const result = state.study.result;
        const width = parts.body.clientWidth - 24;
        const key = result ? `${result.name} ${width}` : '';
        if (!result || width <= 0 || state.study.key === key) return;
        state.study.key = key;
        parts.body.replaceChildren(
            studyPart(t('Mean singular values (largest of each layer = 1)'), spectraPlot(result)),
            studyPart(t('Effective rank by block and layer type'), heatMap(result, width)),
            studyPart(t('Retention against size, by selection method'), curvesPlot(result, width)),
            studyPart(t('File size by block and layer type'), bytesPlot(result, width)),
        );
    }

    function studyPart(title, ...content) {
        return el('figure', {class: 'resize-lora-figure'}, el('figcaption', null, title), content);
    }

    resizeLora.study = {drawStudyHead, endStudy, frameStudy};
})((window.resizeLora = window.resizeLora || {}));
