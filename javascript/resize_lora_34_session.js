/* The session with the server, and the list of installed LoRAs. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.session) return;

    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {pause} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {analysis} = resizeLora.choice;
    const {call, callWithRetry} = resizeLora.wire;
    const {showError, toast} = resizeLora.dialogs;

    /* Calls `hello` once; the card menu and the tab both wait for it. */
    function start() {
        if (!state.pending.start) {
            state.pending.start = begin().catch(error => {
                state.pending.start = null;
                throw error;
            });
        }
        return state.pending.start;
    }

    async function begin() {
        setHello(await call('hello'));
        resizeLora.ownJobs.restoreOwnJobs();
        setDefaults(state.hello.defaults);
        resizeLora.page.drawFrame();
        resizeLora.results.setResults(await call('results'));
        await resizeLora.runs.readRuns();
        readLibrary().catch(showError);
        resizeLora.jobs.poll();
    }

    function setHello(hello) {
        state.hello = hello;
        state.session = hello.session || null;
        state.reference = hello.reference;
        state.archive = hello.archive;
    }

    /* The server was restarted and does not know the ids of its last session: all of the state is read again. */
    function onRestart() {
        if (state.pending.restart) return;
        state.pending.restart = reloadAll()
            .catch(showError)
            .finally(() => {
                state.pending.restart = null;
            });
    }

    async function reloadAll() {
        state.session = null;
        dropOldSession();
        setHello(await call('hello'));
        toast(t('The server was restarted. The library was reloaded.'));
        resizeLora.results.setResults(await call('results'));
        await resizeLora.runs.readRuns();
        await readLibrary();
        resizeLora.target.drawTarget();
        resizeLora.analysis.analyseSoon();
        resizeLora.jobs.poll();
    }

    function dropOldSession() {
        for (const note of state.toasts.values()) note.close();
        if (state.finding) state.finding.box.close();
        const {toasts, bakedFrom, stopping, previewsAsked, jobs, ownJobs, orders, analyses, analysing} = state;
        const {trials, ending} = state;
        [toasts, bakedFrom, stopping, previewsAsked, jobs, ownJobs, orders, analyses, analysing].forEach(all =>
            all.clear(),
        );
        [trials, ending].forEach(all => all.clear());
        Object.assign(state, {plan: null, refusedPlan: null, analysedFor: '', epoch: state.epoch + 1});
        Object.assign(state, {revision: null, busy: null, secondsLeft: null});
        Object.assign(state.library, {revision: null, complete: false});
        state.study.job = null;
        resizeLora.study.drawStudyHead();
        resizeLora.queue.drawQueue();
        resizeLora.queue.drawActions();
    }

    /* Applies the defaults from the host's settings page. */
    function setDefaults(defaults) {
        if (!defaults) return;
        Object.assign(state.options, defaults.options);
        state.target.preset = defaults.preset;
        defaults.notes.forEach(note => toast(messageText(note)));
    }

    /* One reading at a time. A refresh waits for the reading in progress, which may have begun before the change. */
    function readLibrary(refresh) {
        const reading = nextReading(refresh).finally(() => {
            if (state.pending.library === reading) state.pending.library = null;
        });
        state.pending.library = reading;
        return reading;
    }

    function nextReading(refresh) {
        const {library} = state.pending;
        if (!library) return readAll(refresh);
        return refresh ? library.catch(() => undefined).then(() => readAll(true)) : library;
    }

    async function readAll(refresh) {
        const {library} = state;
        const isWhole = library.revision == null;
        const seen = new Set();
        for (let isFirst = true; isFirst || !library.complete; isFirst = false) {
            if (!isFirst) await pause(250);
            const answer = await readPart(refresh && isFirst);
            answer.files.forEach(file => seen.add(file.name));
            if (isWhole && answer.complete) [...state.files.keys()].filter(name => !seen.has(name)).forEach(removeFile);
            resizeLora.library.drawLibrary();
            resizeLora.target.drawTarget();
            resizeLora.shrink.drawShrink();
        }
    }

    async function readPart(refresh) {
        const {library} = state;
        const since = library.revision == null ? {} : {since: library.revision};
        const answer = await callWithRetry('library', refresh ? {...since, refresh: true} : since);
        answer.gone.forEach(removeFile);
        answer.files.forEach(addFile);
        const {revision, complete, known, total, roots} = answer;
        Object.assign(library, {revision, complete, known, total, roots});
        return answer;
    }

    function addFile(file) {
        const before = state.files.get(file.name);
        if (before && (before.modified !== file.modified || before.bytes !== file.bytes)) forgetAnalysis(file.name);
        state.files.set(file.name, file);
        if (file.name === state.current && !analysis()) resizeLora.analysis.analyseSoon();
    }

    function forgetAnalysis(name) {
        [state.analyses, state.previews, state.previewsAsked, state.details].forEach(place => place.delete(name));
        if (name === state.current) state.epoch += 1;
    }

    /* The server reported that a file is gone. It stays selected, in case it comes back. */
    function removeFile(name) {
        state.files.delete(name);
        forgetAnalysis(name);
        if (name === state.current) resizeLora.target.drawTarget();
    }

    /* A file that the host does not know may be newer than its list, so the list is refreshed once. */
    async function callForFile(method, params) {
        try {
            return await call(method, params);
        } catch (error) {
            if (error.kind !== 'file') throw error;
            await readLibrary(true);
            return call(method, params);
        }
    }

    resizeLora.session = {callForFile, onRestart, readLibrary, start};
})((window.resizeLora = window.resizeLora || {}));
