/* Resize LoRA in the browser: the panel of the tab, the menu on LoRA cards, and the way into the prompt.

   One classic script without a framework. It draws into #resize_lora_root and talks to Python through three hidden
   Gradio components (docs/panel-protocol.md). Names of files reach the page as text only, never as HTML.
   A second run of the script changes nothing. */
(function () {
    'use strict';
    if (window.resizeLoraFromCard) return;

    // Words -------------------------------------------------------------------------------------------------------

    /* The host's own translations, or those that the standalone page brings, by the browser's language. */
    function dictionary() {
        const host = window.localization;
        if (host && Object.keys(host).length) return host;
        const known = window.resizeLoraLanguages || {};
        for (const language of navigator.languages || []) {
            if (/^en\b/i.test(language)) return {};
            const found = Object.keys(known).find(name => name.split('-')[0] === language.split('-')[0]);
            if (found) return known[found];
        }
        return {};
    }

    /* English text, with {places} for values, in the reader's language. */
    function t(text, values) {
        const words = dictionary()[text] || text;
        return values ? words.replace(/\{(\w+)\}/g, (whole, name) => name in values ? values[name] : whole) : words;
    }

    const MIB = 1048576;

    function digits(value) {
        const places = [10, 100].filter(most => value < most).length;
        return value.toLocaleString('en-US', {minimumFractionDigits: places, maximumFractionDigits: places});
    }

    /* Bytes as a file manager shows them; 1 MB is 2^20 bytes here, as in size=. */
    function size(bytes) {
        if (bytes == null) return '–';
        return bytes >= 1024 * MIB ? `${digits(bytes / 1024 / MIB)} GB` : `${digits(bytes / MIB)} MB`;
    }

    function sizes(before, after) {
        if (before >= 1024 * MIB || after >= 1024 * MIB) return `${size(before)} → ${size(after)}`;
        return `${digits(before / MIB)} → ${size(after)}`;
    }

    /* A list of names that stays readable: the first few, and how many more. */
    function listed(names, most = 5) {
        const first = names.slice(0, most).join(', ');
        return names.length > most ? t('{names} and {n} more', {names: first, n: count(names.length - most)}) : first;
    }

    function count(number) {
        return number.toLocaleString('en-US');
    }

    function percent(share, places = 1) {
        return share == null ? '–' : `${(100 * share).toFixed(places)} %`;
    }

    function saving(before, after) {
        const share = 1 - after / before;
        const rounded = Math.abs(100 * share).toFixed(0), sign = share >= 0 ? '−' : '+';
        return rounded === '0' ? '0 %' : `${sign}${rounded} %`;
    }

    function ranks(range) {
        if (!range) return '–';
        const least = range[0], most = range[range.length - 1];
        return least === most ? String(most) : `${least}…${most}`;
    }

    function duration(seconds) {
        if (seconds < 90) return t('{n} s left', {n: Math.max(1, Math.round(seconds))});
        return t('{n} min left', {n: Math.round(seconds / 60)});
    }

    // Elements ----------------------------------------------------------------------------------------------------

    const SVG = 'http://www.w3.org/2000/svg';

    function fill(element, attributes, children) {
        for (const [name, value] of Object.entries(attributes || {})) {
            if (value == null || value === false) continue;
            if (name === 'on') Object.entries(value).forEach(([event, work]) => element.addEventListener(event, work));
            else if (element instanceof HTMLElement && name in element && typeof value !== 'string') element[name] = value;
            else element.setAttribute(name, value === true ? '' : String(value));
        }
        element.append(...children.flat(Infinity).filter(child => child != null && child !== false));
        return element;
    }

    function el(tag, attributes, ...children) {
        return fill(document.createElement(tag), attributes, children);
    }

    function draw(tag, attributes, ...children) {
        return fill(document.createElementNS(SVG, tag), attributes, children);
    }

    function button(text, work, attributes) {
        return el('button', {type: 'button', class: 'resize-lora-button-plain', on: {click: work}, ...attributes}, text);
    }

    function app() {
        return window.gradioApp ? window.gradioApp() : document;
    }

    /* A setting of the host's page. Forge Neo declares `opts` with let, so it is not a property of window there. */
    function hostOption(name) {
        const all = typeof opts !== 'undefined' ? opts : window.opts;
        return all ? all[name] : undefined;
    }

    function find(id) {
        return app().querySelector(`#${id}`) || document.getElementById(id);
    }

    /* Writes text only where it changed: hosts look at every change of the page. */
    function say(element, text) {
        if (element.textContent !== text) element.textContent = text;
    }

    function show(element, shown) {
        if (element.hidden === shown) element.hidden = !shown;
    }

    function later(work, wait) {
        let timer = 0;
        return (...values) => {
            clearTimeout(timer);
            timer = setTimeout(work, wait, ...values);
        };
    }

    // Calls -------------------------------------------------------------------------------------------------------

    /* Milliseconds that an answer may take. What only looks is asked again, so it gives up sooner than what acts. */
    const PATIENCE = {status: 15000, previews: 15000, check_recipe: 15000, plan: 30000, resize: 180000};
    const USUAL_PATIENCE = 60000;
    let nextCall = Math.floor(Math.random() * 1e9);
    let lastCall = Promise.resolve();

    /* One call after the other: request and reply are one box each. */
    function call(method, params) {
        const answer = lastCall.then(() => exchange(method, params || {}));
        lastCall = answer.catch(error => { if (error.kind === 'stale') restarted(); });
        return answer;
    }

    function exchange(method, params) {
        const id = ++nextCall;
        const request = app().querySelector('#resize_lora_request textarea');
        const send = app().querySelector('#resize_lora_send');
        if (!request || !send) return Promise.reject(new Error(t('The panel is not there yet.')));
        const session = state.session && method !== 'hello' ? {session: state.session} : {};
        request.value = JSON.stringify({id, ...session, method, params});
        request.dispatchEvent(new Event('input', {bubbles: true}));
        return new Promise((resolve, reject) => {
            setTimeout(() => send.click(), 0);
            awaitReply(id, Date.now() + (PATIENCE[method] || USUAL_PATIENCE), '', resolve, reject);
        });
    }

    function awaitReply(id, deadline, seen, resolve, reject) {
        const box = app().querySelector('#resize_lora_reply textarea'), text = box ? box.value : seen;
        if (text !== seen) {
            const reply = parsed(text);
            if (reply && reply.id === id) {
                if (reply.error) reject(Object.assign(new Error(reply.error.message), reply.error));
                else resolve(reply.result);
                return;
            }
        }
        if (!box) reject(new Error(t('The panel is not there yet.')));  // the host puts its page away to reload
        else if (Date.now() > deadline) reject(Object.assign(new Error(t('The server does not answer.')), {kind: 'timeout'}));
        else setTimeout(awaitReply, 15, id, deadline, text, resolve, reject);
    }

    function parsed(text) {
        try {
            return JSON.parse(text);
        } catch {
            return null;
        }
    }

    // What is known -----------------------------------------------------------------------------------------------

    const PRESETS = ['high', 'medium', 'low'];
    const PRESET_WORDS = {high: 'High', medium: 'Medium', low: 'Low'};
    const DEFAULTS = {
        dtype: '16', naming: 'same', suffix: '_{size}', folder: '', sidecars: true, scores: 'fro_lora=1,min_rank=1',
        rescale: 1, reference: 'loaded',
    };

    const state = {
        hello: null,
        session: null,
        files: new Map(),
        shown: [],
        library: {revision: null, complete: false, known: 0, total: 0, roots: []},
        filter: {text: '', family: '', fits: false, sort: 'bytes', down: true},
        selected: new Set(),
        leftOut: 0,
        current: null,
        cursor: 0,
        cursorName: null,
        versions: new Map(),
        analyses: new Map(),
        analysing: new Map(),
        target: {mode: 'preset', preset: 'medium', size: 50, retention: 0.92, rank: 16, recipe: ''},
        meaning: 'size',
        options: {...DEFAULTS},
        without: true,
        recipe: {text: null, ok: false},  // what the server last said about the text in the recipe box
        numberIsBad: false,
        plan: null,
        refused: null,
        epoch: 0,  // counts what makes older figures untrue: another analysis, another loaded checkpoint
        trouble: '',
        jobs: new Map(),
        left: null,
        revision: null,
        mine: new Set(),
        orders: new Map(),
        results: [],
        moreResults: false,
        shownResults: 40,
        trash: {items: 0, bytes: 0},
        reference: null,
    };

    function can(feature) {
        return Boolean(state.hello && state.hello.features.includes(feature));
    }

    function analysis() {
        return state.analyses.get(state.current) || null;
    }

    function plainOptions() {
        return ['dtype', 'scores', 'rescale'].every(name => state.options[name] === DEFAULTS[name]);
    }

    function table() {
        const known = analysis();
        return known && known.table && plainOptions() ? known.table : null;
    }

    /* The server has found the text in the recipe box good; half a recipe means something else than the whole. */
    function recipeIsGood() {
        return state.recipe.ok && state.recipe.text === state.target.recipe;
    }

    function targetIsGood() {
        return !state.numberIsBad && (state.target.mode !== 'recipe' || recipeIsGood());
    }

    /* What was chosen, as the calls take it. */
    function wanted() {
        const target = state.target;
        return target.mode === 'recipe' ? {recipe: target.recipe} : {target: {[target.mode]: target[target.mode]}};
    }

    /* The recipe that the call will have, for the recipe box, until the server says it in full. */
    function wantedText() {
        const target = state.target;
        if (target.mode === 'recipe') return target.recipe;
        if (target.mode === 'preset') return (state.hello ? state.hello.presets : {})[target.preset] || target.preset;
        const [word, value] = {
            size: ['size', target.size], retention: ['retain', target.retention], rank: ['rank', target.rank],
        }[target.mode];
        return `${target.mode === 'rank' ? '' : `${state.options.scores},`}${word}=${Number(value.toFixed(4))}`;
    }

    function changedOptions(options = state.options) {
        const changed = {};
        for (const [name, value] of Object.entries(options)) if (value !== DEFAULTS[name]) changed[name] = value;
        return changed;
    }

    // What the table says without asking ------------------------------------------------------------------------------

    const NEAR = 1.0005;  // the table is within 0.1 % of what a plan says

    /* The point of a sorted table that a wish means: the largest file below it, or the smallest that keeps so much. */
    function pointFor(points, target) {
        if (target.mode === 'size') return Math.max(0, points.filter(point => point.bytes <= target.size * MIB * NEAR).length - 1);
        const at = points.findIndex(point => point.retention >= target.retention - 1e-9);
        return at < 0 ? points.length - 1 : at;
    }

    function inReach(points, target) {
        return target.mode !== 'size' || points[0].bytes <= target.size * MIB * NEAR;
    }

    /* The plan of the present choice, if it has come. */
    function planNow() {
        return state.plan && state.plan.key === planKey() ? state.plan.result : null;
    }

    /* Why the present choice cannot be had, as far as it is known; '' where it can. */
    function refusal() {
        if (planNow()) return '';
        if (state.refused && state.refused.key === planKey()) return state.refused.message;
        const points = table();
        if (!points || inReach(points, state.target)) return '';
        return t('{size} cannot be reached: the smallest file is {least}.', {size: size(state.target.size * MIB), least: size(points[0].bytes)});
    }

    /* Size, retention and ranks of the present choice, as far as the page knows them: {bytes, retention, ranks, ...}. */
    function estimate() {
        const known = analysis(), {target} = state, plan = planNow();
        if (!known || !targetIsGood() || refusal()) return null;
        if (plan) return {...plan, bytes: plan.bytes_after, exact: true};
        if (target.mode === 'preset' && plainOptions()) {
            const preset = known.presets[target.preset];
            return preset && {...preset, blocks: blocksAt(known, target.preset)};
        }
        const points = table();
        return points && (target.mode === 'size' || target.mode === 'retention') ? points[pointFor(points, target)] : null;
    }

    /* A recipe is being checked, or a plan is on its way: what is shown now belongs to an older choice. */
    function isAwaited() {
        const isChecked = state.target.mode !== 'recipe' || state.recipe.text === state.target.recipe;
        if (!analysis() || state.numberIsBad) return false;
        return isChecked ? targetIsGood() && !planNow() && !refusal() : true;
    }

    function blocksAt(known, preset) {
        const blocks = {};
        for (const [name, block] of Object.entries(known.blocks)) blocks[name] = {old: block.old, kept: block.kept[preset]};
        return blocks;
    }

    function choiceKey() {
        return JSON.stringify([state.current, wanted(), changedOptions()]);
    }

    function planKey() {
        return `${state.epoch} ${choiceKey()}`;
    }

    /* What will be written, in bytes, of a file in the list; null where that is not known. */
    function expected(file) {
        const {mode, preset} = state.target;
        if (file.name === state.current) {
            const now = estimate();
            if (now) return now.bytes;
            if (refusal()) return null;
        }
        if (mode === 'preset' && plainOptions()) return file.predicted ? file.predicted[preset] : null;
        const known = state.analyses.get(file.name);
        if (!known || !known.table || !plainOptions() || !['size', 'retention'].includes(mode)) return null;
        return inReach(known.table, state.target) ? known.table[pointFor(known.table, state.target)].bytes : null;
    }

    // Asking the server -------------------------------------------------------------------------------------------

    let started = null;

    /* Greets the server once; the card menu and the panel both wait for it. */
    function start() {
        started = started || begin().catch(error => {
            started = null;
            throw error;
        });
        return started;
    }

    async function begin() {
        takeHello(await call('hello'));
        recallOwn();
        takeDefaults(state.hello.defaults);
        drawFrame();
        takeResults(await call('results'));
        readLibrary().catch(complain);
        await askStatus();
        poll();
    }

    function takeHello(hello) {
        state.hello = hello;
        state.session = hello.session || null;
        state.reference = hello.reference;
    }

    let restarting = null;

    /* The server is a new one, and ids of the old one mean nothing to it: all of the state is read again. */
    function restarted() {
        restarting = restarting || readAnew().catch(complain).finally(() => { restarting = null; });
    }

    async function readAnew() {
        state.session = null;
        dropOldIds();
        takeHello(await call('hello'));
        toast(t('The server was restarted; the list was read again.'));
        takeResults(await call('results'));
        await readLibrary();
        drawTarget();
        analyseSoon();
        poll();
    }

    function dropOldIds() {
        for (const [, note] of jobToasts) note.close();
        [jobToasts, origins, stopping, asked, state.jobs, state.mine, state.orders, state.analyses, state.analysing].forEach(place => place.clear());
        Object.assign(state, {plan: null, refused: null, revision: null, busy: null, left: null, analysedFor: '', epoch: state.epoch + 1});
        Object.assign(state.library, {revision: null, complete: false});
        study.job = null;
        drawStudyHead();
        drawQueue();
        drawActions();
    }

    /* What the person set on the host's settings page. */
    function takeDefaults(defaults) {
        if (!defaults) return;
        Object.assign(state.options, defaults.options);
        state.target.preset = defaults.preset;
        defaults.notes.forEach(note => toast(note));
    }

    let reading = null;

    /* One reading at a time. One that is to ask the host anew waits for the other, which may have begun before. */
    function readLibrary(refresh) {
        const next = reading && refresh ? reading.catch(() => undefined).then(() => readAll(true)) : reading || readAll(refresh);
        const mine = next.finally(() => { if (reading === mine) reading = null; });
        reading = mine;
        return mine;
    }

    async function readAll(refresh) {
        const {library} = state, whole = library.revision == null, seen = new Set();
        do {
            const params = library.revision == null ? {} : {since: library.revision};
            const answer = await insist('library', refresh ? {...params, refresh: true} : params);
            refresh = false;
            answer.gone.forEach(forget);
            answer.files.forEach(remember);
            answer.files.forEach(file => seen.add(file.name));
            Object.assign(library, {
                revision: answer.revision, complete: answer.complete, known: answer.known, total: answer.total,
                roots: answer.roots,
            });
            if (whole && answer.complete) [...state.files.keys()].filter(name => !seen.has(name)).forEach(forget);
            drawLibrary();
            drawTarget();
            if (!answer.complete) await pause(250);
        } while (!library.complete);
    }

    /* Asks again, a few times, where no answer comes; for questions that change nothing. */
    async function insist(method, params, tries = 4) {
        try {
            return await call(method, params);
        } catch (error) {
            if (error.kind !== 'timeout' || tries <= 1) throw error;
            await pause(BREATH * 2 ** (6 - tries));
            return insist(method, params, tries - 1);
        }
    }

    function remember(file) {
        const before = state.files.get(file.name);
        if (before && (before.modified !== file.modified || before.bytes !== file.bytes)) forgetAnalysis(file.name);
        state.files.set(file.name, file);
        if (file.name === state.current && !analysis()) analyseSoon();
    }

    function forgetAnalysis(name) {
        [state.analyses, previews, asked].forEach(place => place.delete(name));
        if (name === state.current) state.epoch += 1;
    }

    /* The server said that a file is gone. Its tick stays, in case that it comes back. */
    function forget(name) {
        state.files.delete(name);
        forgetAnalysis(name);
        if (name === state.current) drawTarget();
    }

    function pause(wait) {
        return new Promise(resolve => setTimeout(resolve, wait));
    }

    const BREATH = 400, LONGEST_BREATH = 15000;  // milliseconds between two questions
    const following = {on: false, again: false, silent: null};

    /* Follows the jobs while there may be any. A question that fails is asked again, after longer and longer pauses. */
    async function poll() {
        following.again = true;
        if (following.on) return;
        following.on = true;
        try {
            for (let wait = BREATH; following.again;) {
                following.again = false;
                wait = await askStatus() ? BREATH : Math.min(2 * wait, LONGEST_BREATH);
                if (following.again) await pause(wait);
            }
        } catch (error) {
            complain(error);
        } finally {
            following.on = false;
        }
    }

    /* One question; whether it was answered. Throws where nothing is going on, so that there is nothing to ask again for. */
    async function askStatus() {
        try {
            const status = await call('status', state.revision == null ? {} : {since: state.revision});
            if (takeStatus(status)) following.again = true;
            breakSilence();
            return true;
        } catch (error) {
            if (error.kind === 'stale') return false;
            if (!mayBeActive()) throw error;
            following.again = true;
            following.silent = following.silent || toast(t('The server does not answer. Asking again…'), {stays: true});
            return false;
        }
    }

    /* A job of this page that no answer has shown yet may well be active, and so may one whose order was not answered. */
    function mayBeActive() {
        return ordering || activeJobs().length > 0 || [...state.mine].some(id => !state.jobs.has(id));
    }

    function breakSilence() {
        if (following.silent) following.silent.close();
        following.silent = null;
    }

    /* Whether jobs are active. */
    function takeStatus(status) {
        if (status.session && state.session && status.session !== state.session) {
            restarted();
            return false;
        }
        if (status.reset && state.revision != null) {
            state.revision = null;
            call('results').then(takeResults).catch(complain);
            return true;
        }
        const first = state.revision == null;
        state.revision = status.revision;
        state.busy = status.busy;
        state.left = status.seconds_left;
        takeReference(status.reference);
        status.queue.forEach(job => takeJob(job, first));
        placeJobs(status.places, first);
        [...state.mine].filter(id => !state.jobs.has(id)).forEach(id => state.mine.delete(id));
        if (state.library.complete && status.library > state.library.revision) readLibrary().catch(complain);
        sayWhatWasStopped();
        if (redraw.isDue) refreshCards();
        if (!status.active) queueRanEmpty();
        drawQueue();
        drawActions();
        return status.active > 0 || state.revision == null;
    }

    function takeReference(reference) {
        const before = state.reference;
        state.reference = reference;
        drawReference();
        if (!before || before.title === reference.title) return;
        state.epoch += 1;
        drawTarget();
        askPlanSoon();
    }

    /* Places and times of all active jobs come with every answer; one that is not among them is read again. */
    function placeJobs(places, first) {
        if (!places) return;
        for (const job of activeJobs()) {
            if (places[job.id]) [job.place, job.seconds_left] = places[job.id];
            else if (first) state.jobs.delete(job.id);
            else state.revision = null;
        }
    }

    const ENDED = ['done', 'failed', 'cancelled'];

    /* `first`: it comes with the first answer, so it may have ended long ago. */
    function takeJob(job, first) {
        const before = state.jobs.get(job.id), note = jobToasts.get(job.id);
        state.jobs.set(job.id, {...job, seen: before && before.seen});
        if (note) followWithToast(job, note);
        if (!ENDED.includes(job.state) || (before && ENDED.includes(before.state))) return;
        if (job.kind === 'analyse') endAnalysis(job, first);
        else if (job.kind === 'spectra') endStudy(job);
        else if (job.kind === 'compare') { if (job.state === 'done' && note) openComparison(job.result); }
        else if (job.state === 'done') takeResult(job.result);
    }

    function endAnalysis(job, first) {
        for (const [name, id] of state.analysing) if (id === job.id) state.analysing.delete(name);
        const {files, failed} = job.result || {files: [], failed: []};
        files.forEach(keepAnalysis);
        const fault = failed.find(one => one.name === state.current);
        if (fault) state.trouble = fault.message;
        else if (job.error && job.state === 'failed' && state.mine.has(job.id) && !first) state.trouble = job.error.message;
        if (job.state === 'done') askPlan();
        drawTarget();
        drawLibrary();
    }

    /* Analyses of many files come without their tables; one that has its table is worth more. */
    function keepAnalysis(found) {
        const known = state.analyses.get(found.name);
        state.analyses.set(found.name, found.table || !known ? found : known);
        if (found.name === state.current) state.epoch += 1;
    }

    /* What a job says of its result is as old as its end; what `results` said is newer. */
    function takeResult(result) {
        if (state.results.some(one => one.result === result.result)) return;
        state.results.push(result);
        redraw.isDue = true;
        drawResults();
    }

    function takeResults(answer) {
        state.results = answer.results;
        state.moreResults = Boolean(answer.more);
        state.trash = answer.trash;
        drawResults();
    }

    /* Makes a LoRA the one that the target speaks of, and has it decomposed if it was not. */
    function choose(name) {
        if (name === state.current) return;
        const leaving = state.analysing.get(state.current);
        state.current = name;
        state.plan = state.refused = null;
        state.trouble = '';
        if (leaving && state.mine.has(leaving) && !state.selected.has(name)) cancel([leaving]);
        drawTarget();
        analyseSoon();
    }

    const analyseSoon = later(() => {
        const file = state.files.get(state.current);
        if (!file || file.problem) return;
        const known = analysis();
        if (known && known.table) askPlan();
        else if (!state.analysing.has(file.name)) analyse([file.name]);
    }, 200);

    async function analyse(names, recipe) {
        const params = {names, reference: state.options.reference};
        if (recipe) params.recipe = recipe;
        try {
            const {job} = await call('analyse', params);
            names.forEach(name => state.analysing.set(name, job));
            own([job]);
            drawTarget();
            poll();
        } catch (error) {
            complain(error);
        }
    }

    let planning = false;

    /* Asks for the exact figures of the present choice; where it changes meanwhile, asks again. */
    async function askPlan() {
        if (planning) return;
        planning = true;
        try {
            for (let last = ''; mayPlan() && last !== planKey();) {
                last = planKey();
                await askForPlan(last);
            }
        } finally {
            planning = false;
        }
        drawTarget();
        drawTotals();
    }

    function mayPlan() {
        const isKnown = planNow() || (state.refused && state.refused.key === planKey());
        return Boolean(analysis()) && targetIsGood() && !isKnown;
    }

    async function askForPlan(key) {
        const choice = choiceKey();
        try {
            const result = await call('plan', {name: state.current, ...wanted(), options: changedOptions()});
            if (key !== planKey()) return;
            state.plan = {key, result};
            state.analysedFor = '';
        } catch (error) {
            if (key !== planKey() || error.kind === 'stale') return;
            if (error.kind === 'not_analysed' && state.analysedFor !== choice) {
                state.analysedFor = choice;
                await analyse([state.current], wantedText());
            } else if (error.kind === 'timeout') complain(error);
            else state.refused = {key, message: error.message};
        }
        drawTarget();
        drawRows();
    }

    const askPlanSoon = later(askPlan, 60);

    // Orders ------------------------------------------------------------------------------------------------------

    let ordering = false;

    async function run() {
        finishTyping();
        const names = chosenNames();
        if (!names.length || ordering || isBarred(names)) return;
        await give({names, ...wanted(), options: changedOptions()});
    }

    /* A field whose text was not taken yet takes it when it is left. */
    function finishTyping() {
        const field = document.activeElement;
        if (!root.contains(field) || !field.matches('input')) return;
        field.blur();
        field.focus();
    }

    /* The choice cannot be run: it is not a whole recipe or number, or the only LoRA cannot be made so. */
    function isBarred(names) {
        return !targetIsGood() || (names.length === 1 && names[0] === state.current && Boolean(refusal()));
    }

    /* Queues LoRAs, and says what was refused and what was there already. */
    async function give(params) {
        ordering = true;
        drawActions();
        try {
            takeOrder(params, await order(params));
        } catch (error) {
            complain(error);
        } finally {
            ordering = false;
            drawActions();
        }
        poll();
    }

    async function order(params) {
        const before = new Set(state.jobs.keys());
        try {
            const answer = await call('resize', params);
            own(answer.jobs, params);
            return {same: [], ...answer};
        } catch (error) {
            if (error.kind !== 'timeout') throw error;
            return findOrder(params, before);
        }
    }

    /* An order without an answer may have been heard all the same. It is not given twice: the queue knows. */
    async function findOrder(params, before) {
        while (!await askStatus()) await pause(2 * BREATH);
        const fresh = [...state.jobs.values()].filter(job => job.kind === 'resize' && !before.has(job.id) && params.names.includes(job.name));
        if (!fresh.length) throw new Error(t('The server did not answer in time, and these files are not in the queue. Check the queue before you try again.'));
        const jobs = fresh.map(job => job.id);
        own(jobs, params);
        return {jobs, refused: [], same: []};
    }

    const MOST_COMPLAINTS = 3;

    function takeOrder(params, answer) {
        answer.refused.slice(0, MOST_COMPLAINTS).forEach(one => toast(`${one.name}: ${one.message}`, {bad: true}));
        const rest = answer.refused.slice(MOST_COMPLAINTS).map(one => one.name);
        if (rest.length) toast(t('Also refused: {names}', {names: listed(rest)}), {bad: true});
        if (answer.same.length) offerAgain(params, answer.same);
    }

    /* The same order was given before; it is given again only where the person says so. */
    function offerAgain(params, same) {
        const note = toast(sameText(same), {stays: true});
        note.offer(button(t('Resize again'), () => {
            note.close();
            parted(params, same).forEach(part => give({...part, again: true}));
        }));
    }

    function sameText(same) {
        if (same.length > 1) return t('{n} LoRAs were resized like this before or are in the queue already: {names}', {n: count(same.length), names: listed(same.map(one => one.name))});
        const [{name, result}] = same, made = state.results.find(one => one.result === result);
        if (!result) return t('{name} is in the queue already.', {name});
        return made ? t('{name} was resized like this before: {output}', {name, output: made.output}) : t('{name} was resized like this before.', {name});
    }

    /* An order for some of its files. A text with several recipes becomes one order for each recipe. */
    function parted(params, some) {
        if (!(params.recipe || '').includes(':')) return [{...params, names: some.map(one => one.name)}];
        const names = new Map();
        some.forEach(one => names.set(one.recipe, [...(names.get(one.recipe) || []), one.name]));
        return [...names].map(([recipe, group]) => ({...params, recipe, names: group}));
    }

    function isResizable(name) {
        const file = state.files.get(name);
        return Boolean(file) && !file.problem;
    }

    function chosenNames() {
        const ticked = [...state.selected].filter(name => state.files.has(name));
        return (ticked.length ? ticked : [state.current]).filter(isResizable);
    }

    // This page's own jobs ----------------------------------------------------------------------------------------

    const MEMORY = 'resize-lora-own';
    const stopping = new Set();

    /* Remembers that this page began jobs, also when it is loaded again; `params` are those of a resize. */
    function own(jobs, params) {
        const known = params && {jobs, params};
        for (const id of jobs) {
            state.mine.add(id);
            if (known) state.orders.set(id, known);
        }
        keepOwn();
    }

    function keepOwn() {
        const over = id => state.jobs.has(id) && ENDED.includes(state.jobs.get(id).state);
        const orders = [...new Set(state.orders.values())].filter(one => !one.jobs.every(over));
        const kept = {session: state.session, jobs: [...state.mine].filter(id => !over(id)), orders};
        try {
            sessionStorage.setItem(MEMORY, JSON.stringify(kept));
        } catch (error) {
            console.warn('Resize LoRA: the browser keeps nothing', error);
        }
    }

    function recallOwn() {
        const kept = parsed(readMemory() || '');
        if (!kept || !state.session || kept.session !== state.session) return;
        kept.jobs.forEach(id => state.mine.add(id));
        kept.orders.forEach(one => one.jobs.forEach(id => state.orders.set(id, one)));
    }

    function readMemory() {
        try {
            return sessionStorage.getItem(MEMORY);
        } catch {
            return null;
        }
    }

    /* An order that was stopped, once all of it has ended: what became of it, and the way on. */
    function sayWhatWasStopped() {
        for (const one of stopping) {
            const jobs = one.jobs.map(id => state.jobs.get(id)).filter(Boolean);
            if (jobs.some(job => !ENDED.includes(job.state))) continue;
            stopping.delete(one);
            const stopped = jobs.filter(job => job.state === 'cancelled');
            if (stopped.length) offerToGoOn(one.params, stopped, jobs.filter(job => job.state === 'done').length);
        }
    }

    function offerToGoOn(params, stopped, done) {
        const values = {done: count(done), n: count(stopped.length), names: listed(stopped.map(job => job.name))};
        const note = toast(t('{done} done, {n} stopped: {names}', values), {stays: true});
        note.offer(button(t('Continue'), () => {
            note.close();
            parted(params, stopped).forEach(give);
        }));
    }

    function activeJobs() {
        return [...state.jobs.values()].filter(job => !ENDED.includes(job.state));
    }

    function ownActiveJobs() {
        return activeJobs().filter(job => state.mine.has(job.id));
    }

    /* Stops what this page began, and nothing that another page or program did. */
    function cancelOwn() {
        cancel(ownActiveJobs().map(job => job.id));
    }

    async function cancel(jobs) {
        if (!jobs.length) return;
        jobs.filter(id => state.orders.has(id)).forEach(id => stopping.add(state.orders.get(id)));
        try {
            await call('cancel', {jobs});
        } catch (error) {
            if (error.kind !== 'gone') complain(error);
        }
        poll();
    }

    function complain(error) {
        if (error.kind !== 'stale') toast(error.message || String(error), {bad: true});
    }

    // The panel's frame -------------------------------------------------------------------------------------------

    let root = null;
    const parts = {};

    function drawFrame() {
        parts.reference = el('section', {class: 'resize-lora-reference', 'aria-label': t('Reference')});
        parts.library = el('section', {id: 'resize_lora_library', class: 'resize-lora-box resize-lora-library', 'aria-label': t('Library')});
        parts.target = el('section', {id: 'resize_lora_target', class: 'resize-lora-box resize-lora-target', 'aria-label': t('Target')});
        parts.actions = el('section', {class: 'resize-lora-actions', 'aria-label': t('Run')});
        parts.queue = el('section', {id: 'resize_lora_queue', class: 'resize-lora-box resize-lora-queue', 'aria-label': t('Queue'), hidden: true});
        parts.results = el('section', {id: 'resize_lora_results', class: 'resize-lora-box resize-lora-results', 'aria-label': t('Results')});
        parts.study = el('section', {id: 'resize_lora_study', class: 'resize-lora-box resize-lora-study', 'aria-label': t('Look inside')});
        root.replaceChildren(parts.reference, parts.library, parts.target, parts.actions, parts.queue, parts.results, parts.study);
        frameReference();
        frameLibrary();
        frameTarget();
        frameActions();
        frameQueue();
        frameStudy();
        drawReference();
        drawLibrary();
        drawTarget();
        drawQueue();
        drawResults();
    }

    function chooser(id, label, choices, value, work) {
        const options = choices.map(([key, text]) => el('option', {value: key}, text));
        const select = el('select', {id, 'aria-label': label, on: {change: () => work(select.value)}}, options);
        select.value = value;
        return select;
    }

    function labelled(text, control, hint) {
        return el('label', {class: 'resize-lora-field', title: hint}, el('span', null, text), control);
    }

    function frameReference() {
        parts.dot = el('span', {class: 'resize-lora-dot', 'aria-hidden': 'true'});
        parts.referenceTitle = el('strong', {class: 'resize-lora-cut'});
        parts.referenceNote = el('span', {class: 'resize-lora-quiet'});
        const choices = [['loaded', t('Loaded checkpoint')], ...state.hello.checkpoints.map(title => [title, title]), ['none', t('No reference')]];
        const select = chooser('resize_lora_checkpoint', t('Reference'), choices, state.options.reference, setReference);
        const hint = t('Recipes may compare a LoRA with the checkpoint that it is used on');
        parts.reference.append(
            el('span', {class: 'resize-lora-quiet', title: hint}, t('Reference')),
            el('span', {class: 'resize-lora-reference-text', id: 'resize_lora_reference'}, parts.dot, parts.referenceTitle, parts.referenceNote),
            select,
        );
    }

    function setReference(value) {
        state.options.reference = value;
        state.analysedFor = '';
        drawReference();
        askPlanSoon();
    }

    function drawReference() {
        if (!parts.dot || !state.reference) return;
        const chosen = state.options.reference, reference = state.reference;
        const words = {
            memory: t('in memory, read in place'), cache: t('from the cache of norms'), file: t('read from its file'),
            none: t('No checkpoint is loaded.'),
        };
        const kind = {loaded: reference.kind, none: 'none'}[chosen] || 'file';
        parts.dot.dataset.kind = kind;
        if (chosen === 'loaded') {
            say(parts.referenceTitle, reference.title || '');
            const told = kind === 'none' ? [reference.note || words.none] : [reference.family, reference.note || words[kind]];
            say(parts.referenceNote, told.filter(Boolean).join(', '));
        } else {
            say(parts.referenceTitle, chosen === 'none' ? t('No reference') : chosen);
            say(parts.referenceNote, chosen === 'none' ? t("the LoRA's own norms are used") : words.file);
        }
    }

    // Library -----------------------------------------------------------------------------------------------------

    const COLUMNS = [
        ['name', 'Name'], ['family', 'Family'], ['kind', 'Type'], ['rank', 'Rank'], ['dtype', 'Numbers'],
        ['bytes', 'Size'], ['after', 'After'],
    ];
    const ORDERS = [...COLUMNS, ['modified', 'Newest']];
    const previews = new Map();
    const asked = new Set();
    const list = {rows: [], height: 44};

    function frameLibrary() {
        const search = el('input', {
            type: 'search', id: 'resize_lora_search', placeholder: t('Search'), 'aria-label': t('Search the library'),
            on: {input: () => setFilter({text: search.value})},
        });
        parts.family = chooser('resize_lora_family', t('Family'), [['', t('All families')]], '', value => setFilter({family: value}));
        parts.fits = el('input', {type: 'checkbox', id: 'resize_lora_fits', on: {change: () => setFilter({fits: parts.fits.checked})}});
        parts.sort = chooser('resize_lora_sort', t('Sort by'), ORDERS.map(([key, text]) => [key, t(text)]), state.filter.sort, value => setFilter({sort: value, down: descends(value)}));
        const refresh = button(t('Refresh'), () => readLibrary(true).catch(complain), {id: 'resize_lora_refresh'});
        parts.library.append(
            el('div', {class: 'resize-lora-tools'}, search, parts.family,
                el('label', {class: 'resize-lora-check', title: t('Only LoRAs of the family of the loaded checkpoint')}, parts.fits, t('Fits loaded')),
                el('label', {class: 'resize-lora-narrow'}, parts.sort), refresh),
            frameHead(), frameList(), frameFoot(),
        );
    }

    function descends(column) {
        return ['bytes', 'modified', 'rank'].includes(column);
    }

    function frameHead() {
        parts.all = el('input', {type: 'checkbox', id: 'resize_lora_all', 'aria-label': t('Select all that match'), title: t('Select all that match'), on: {change: () => selectAll(parts.all.checked)}});
        parts.heads = COLUMNS.map(([key, text]) => el('button', {
            type: 'button', class: `resize-lora-head resize-lora-col-${key}`, on: {click: () => sortBy(key)}, 'data-column': key,
        }, t(text)));
        return el('div', {class: 'resize-lora-row-grid resize-lora-heads', role: 'group', 'aria-label': t('Sort by'), 'data-narrow': t('Select all that match')}, parts.all, el('span'), parts.heads);
    }

    function sortBy(column) {
        const filter = state.filter;
        setFilter({sort: column, down: filter.sort === column ? !filter.down : descends(column)});
        parts.sort.value = column;
    }

    function setFilter(change) {
        Object.assign(state.filter, change);
        state.cursor = 0;
        state.cursorName = null;
        list.box.scrollTop = 0;
        state.shown = [];
        drawLibrary();
    }

    function putCursor(index) {
        state.cursor = index;
        state.cursorName = state.shown[index] ? state.shown[index].name : null;
    }

    function frameList() {
        list.space = el('div', {class: 'resize-lora-space', role: 'presentation'});
        list.empty = el('p', {class: 'resize-lora-quiet resize-lora-empty'});
        list.box = el('div', {
            class: 'resize-lora-list', id: 'resize_lora_list', role: 'listbox', 'aria-multiselectable': 'true', tabIndex: 0,
            'aria-label': t('LoRAs'), on: {scroll: () => requestAnimationFrame(drawRows), keydown: listKey, click: listClick},
        }, list.space, list.empty);
        new ResizeObserver(() => { measureRows(); drawRows(); }).observe(list.box);
        return list.box;
    }

    function measureRows() {
        const height = parseFloat(getComputedStyle(list.box).getPropertyValue('--resize-lora-row')) || 44;
        if (height === list.height) return;
        list.height = height;
        list.space.style.height = `${state.shown.length * height}px`;
    }

    function frameFoot() {
        parts.counts = el('span');
        parts.totals = el('strong', {id: 'resize_lora_totals'});
        parts.leftOut = el('span', {id: 'resize_lora_left_out'});
        parts.more = button(t('Analyse'), () => analyse(unknownNames()), {id: 'resize_lora_analyse', title: t('Find out what a resize of the selected LoRAs would save')});
        parts.clear = button(t('Select none'), () => selectAll(false), {id: 'resize_lora_none'});
        return el('div', {class: 'resize-lora-foot'}, el('span', {'aria-live': 'polite'}, parts.counts, parts.totals, parts.leftOut), parts.more, parts.clear);
    }

    function matching() {
        const {text, family, fits, sort, down} = state.filter;
        const words = text.toLowerCase().split(/\s+/).filter(Boolean);
        const found = [...state.files.values()].filter(file => {
            if (family && (file.family || '') !== family) return false;
            if (fits && file.fits !== true) return false;
            if (!words.length) return true;
            const where = `${file.folder}/${file.name} ${file.kind || ''}`.toLowerCase();
            return words.every(word => where.includes(word));
        });
        const sign = down ? -1 : 1;
        return found.sort((a, b) => sign * compareBy(sort, a, b) || byText(a.name, b.name));
    }

    const collator = new Intl.Collator(undefined, {numeric: true});

    function byText(a, b) {
        return collator.compare(a, b);
    }

    function compareBy(column, a, b) {
        const value = file => column === 'after' ? (expected(file) ?? Infinity) : file[column];
        const x = value(a), y = value(b);
        if (x == null || y == null) return (x == null) - (y == null);
        return typeof x === 'string' ? byText(x, y) : x - y;
    }

    function drawLibrary() {
        if (!list.box) return;
        const top = Math.floor(list.box.scrollTop / list.height), anchor = top > 0 && state.shown[top];
        state.versions = versionsOf([...state.files.values()]);
        state.shown = matching();
        drawFamilies();
        drawHeads();
        list.space.style.height = `${state.shown.length * list.height}px`;
        keepPlace(anchor, top);
        say(list.empty, emptyText());
        show(list.empty, state.shown.length === 0);
        drawRows();
        drawTotals();
        drawActions();
    }

    /* The cursor stays on its LoRA, and what is in view stays in view, wherever the list puts them now. */
    function keepPlace(anchor, top) {
        const at = name => state.shown.findIndex(file => file.name === name);
        const cursor = state.cursorName == null ? -1 : at(state.cursorName);
        state.cursor = cursor >= 0 ? cursor : Math.max(0, Math.min(state.cursor, state.shown.length - 1));
        const now = anchor ? at(anchor.name) : -1;
        if (now >= 0 && now !== top) list.box.scrollTop += (now - top) * list.height;
    }

    /* Original -> the smaller files that were made of it, the smallest first. */
    function versionsOf(files) {
        const found = new Map();
        for (const file of files) {
            const source = file.ours && state.files.get(file.ours.source);
            if (source && file.bytes < source.bytes) found.set(source.name, [...(found.get(source.name) || []), file]);
        }
        for (const versions of found.values()) versions.sort((a, b) => a.bytes - b.bytes);
        return found;
    }

    function emptyText() {
        const library = state.library;
        if (!library.complete) return t('Reading {known} of {total} LoRAs…', {known: library.known, total: library.total});
        if (state.files.size) return t('No LoRA matches.');
        return t('There are no LoRAs in {folders}.', {folders: library.roots.join(', ') || '?'});
    }

    function drawFamilies() {
        const known = [...new Set([...state.files.values()].map(file => file.family).filter(Boolean))].sort();
        if (known.join() === parts.families) return;
        parts.families = known.join();
        parts.family.replaceChildren(el('option', {value: ''}, t('All families')), ...known.map(name => el('option', {value: name}, name)));
        parts.family.value = state.filter.family;
    }

    function drawHeads() {
        for (const head of parts.heads) {
            const here = head.dataset.column === state.filter.sort;
            const direction = state.filter.down ? 'down' : 'up';
            head.dataset.order = here ? direction : '';
            head.setAttribute('aria-pressed', String(here));
        }
    }

    /* Only the rows in view are in the page; they are filled anew, not made anew. */
    function drawRows() {
        const {box, height, rows} = list;
        if (!box.clientHeight) return;
        const first = Math.max(0, Math.floor(box.scrollTop / height) - 3);
        const needed = Math.max(0, Math.min(state.shown.length - first, Math.ceil(box.clientHeight / height) + 7));
        while (rows.length < needed) rows.push(list.space.appendChild(makeRow()));
        rows.forEach((row, i) => {
            show(row, i < needed);
            if (i < needed) fillRow(row, state.shown[first + i], first + i);
        });
        askPreviews(rows.slice(0, needed));
        markCursor();
    }

    function makeRow() {
        const cell = name => el('span', {class: `resize-lora-col-${name}`});
        const row = el('div', {class: 'resize-lora-row resize-lora-row-grid', role: 'option'});
        row.parts = {
            tick: el('span', {class: 'resize-lora-tick', 'aria-hidden': 'true'}),
            picture: el('img', {class: 'resize-lora-preview', alt: ''}),
            title: el('span', {class: 'resize-lora-title'}),
            folder: el('span', {class: 'resize-lora-quiet resize-lora-folder'}),
            made: el('span', {class: 'resize-lora-made'}),
            family: cell('family'), kind: cell('kind'), rank: cell('rank'), dtype: cell('dtype'),
            bytes: cell('bytes'), after: cell('after'),
        };
        const {tick, picture, title, folder, made, ...cells} = row.parts;
        const second = el('span', {class: 'resize-lora-second-line'}, made, folder);
        row.append(tick, picture, el('span', {class: 'resize-lora-col-name'}, title, second), ...Object.values(cells));
        return row;
    }

    function fillRow(row, file, index) {
        const cells = row.parts, after = expected(file);
        row.dataset.name = file.name;
        row.id = `resize_lora_row_${index}`;
        row.style.transform = `translateY(${index * list.height}px)`;
        row.setAttribute('aria-selected', String(state.selected.has(file.name)));
        row.setAttribute('aria-posinset', String(index + 1));
        row.setAttribute('aria-setsize', String(state.shown.length));
        row.classList.toggle('resize-lora-current', file.name === state.current);
        row.classList.toggle('resize-lora-problem', Boolean(file.problem));
        row.title = file.problem || (state.versions.get(file.name) || []).map(one => one.name).join(', ');
        say(cells.title, file.name);
        say(cells.folder, folderText(file));
        say(cells.made, versionText(file));
        say(cells.family, file.family || '');
        say(cells.kind, file.read === false ? '…' : file.kind || '');
        say(cells.rank, file.rank == null ? '' : `r${file.rank}`);
        say(cells.dtype, (file.dtype || '').toLowerCase());
        say(cells.bytes, size(file.bytes));
        say(cells.after, afterText(file, after));
        cells.after.classList.toggle('resize-lora-quiet', after == null);
        const picture = previews.get(file.name) || '';
        if (cells.picture.getAttribute('src') !== picture) {
            if (picture) cells.picture.src = picture;
            else cells.picture.removeAttribute('src');
        }
    }

    function folderText(file) {
        const made = file.ours ? t('made from {name}', {name: file.ours.source}) : '';
        return [file.folder, made].filter(Boolean).join(' · ');
    }

    function versionText(file) {
        const versions = state.versions.get(file.name) || [];
        if (!versions.length) return '';
        const least = size(versions[0].bytes);
        return versions.length === 1 ? t('smaller: {size}', {size: least}) : t('{n} smaller, {size}', {n: versions.length, size: least});
    }

    function afterText(file, after) {
        if (file.problem) return t('not resizable');
        if (after != null) return `→ ${size(after)}`;
        if (state.analysing.has(file.name)) return t('analysing…');
        return file.predicted || state.analyses.has(file.name) ? '–' : t('analyse');
    }

    const askPreviews = later(async rows => {
        const names = rows.filter(row => !row.hidden).map(row => row.dataset.name).filter(name => {
            const file = state.files.get(name);
            return file && file.preview && !previews.has(name) && !asked.has(name);
        }).slice(0, 48);
        if (!names.length) return;
        names.forEach(name => asked.add(name));
        try {
            const answer = await call('previews', {names});
            Object.entries(answer.previews).forEach(([name, picture]) => { if (picture) previews.set(name, picture); });
            (answer.pending || []).forEach(name => asked.delete(name));
            drawRows();
        } catch (error) {
            console.warn('Resize LoRA: no previews', error);
        }
    }, 150);

    function listClick(event) {
        const row = event.target.closest('.resize-lora-row');
        if (!row) return;
        const index = state.shown.findIndex(file => file.name === row.dataset.name);
        if (index < 0) return;
        if (event.shiftKey) selectRange(state.cursor, index);
        else if (event.ctrlKey || event.metaKey || event.target.closest('.resize-lora-tick')) toggle(index);
        else selectOnly(index);
        putCursor(index);
        choose(row.dataset.name);
        drawLibrary();
    }

    function toggle(index) {
        const {name} = state.shown[index];
        if (!state.selected.delete(name)) state.selected.add(name);
        state.leftOut = 0;
    }

    function selectOnly(index) {
        state.selected = new Set([state.shown[index].name]);
        state.leftOut = 0;
    }

    function selectRange(from, to) {
        for (let i = Math.min(from, to); i <= Math.max(from, to); i++) state.selected.add(state.shown[i].name);
        state.leftOut = 0;
    }

    /* What was resized already is not resized once more unless one asks for it by itself. */
    function selectAll(on) {
        const able = on ? state.shown.filter(file => !file.problem) : [], chosen = able.filter(file => !file.ours);
        state.selected = new Set(chosen.map(file => file.name));
        state.leftOut = able.length - chosen.length;
        if (chosen.length && !state.current) choose(chosen[0].name);
        drawLibrary();
    }

    function listKey(event) {
        const page = Math.max(1, Math.floor(list.box.clientHeight / list.height) - 1), last = state.shown.length - 1;
        const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -last, End: last};
        if (last < 0) return;
        if (event.key in steps) moveCursor(steps[event.key], event.shiftKey, last);
        else if (event.key === ' ') toggle(state.cursor);
        else if (event.key === 'Enter' && !event.ctrlKey) selectOnly(state.cursor);
        else if (event.key === 'a' && (event.ctrlKey || event.metaKey)) selectAll(true);
        else return;
        event.preventDefault();
        if (event.key !== 'a') choose(state.shown[state.cursor].name);
        drawLibrary();
    }

    function moveCursor(step, extend, last) {
        const before = state.cursor;
        putCursor(Math.min(last, Math.max(0, before + step)));
        if (extend) selectRange(before, state.cursor);
        bringIntoView(state.cursor);
    }

    function bringIntoView(index) {
        const top = index * list.height, {box} = list;
        if (top < box.scrollTop) box.scrollTop = top;
        else if (top + list.height > box.scrollTop + box.clientHeight) box.scrollTop = top + list.height - box.clientHeight;
        drawRows();
    }

    function markCursor() {
        const id = `resize_lora_row_${state.cursor}`;
        list.rows.forEach(row => row.classList.toggle('resize-lora-cursor', !row.hidden && row.id === id));
        if (state.shown.length) list.box.setAttribute('aria-activedescendant', id);
        else list.box.removeAttribute('aria-activedescendant');
    }

    function unknownNames() {
        return [...state.selected].filter(name => {
            const file = state.files.get(name);
            return file && !file.problem && !file.predicted && !state.analyses.has(name) && !state.analysing.has(name);
        });
    }

    function drawTotals() {
        if (!parts.counts) return;
        const files = [...state.files.values()], chosen = files.filter(file => state.selected.has(file.name));
        const known = state.library.complete ? '' : ` · ${emptyText()}`;
        say(parts.counts, `${t('{n} files', {n: count(files.length)})} · ${size(sum(files, 'bytes'))}${known}`);
        say(parts.totals, chosen.length ? ` · ${t('{n} selected', {n: count(chosen.length)})}, ${totalText(chosen)}` : '');
        say(parts.leftOut, state.leftOut ? `; ${t('{n} resized files left out', {n: count(state.leftOut)})}` : '');
        const unknown = unknownNames().length;
        show(parts.more, unknown > 0 && chosen.length > 1);
        say(parts.more, t('Analyse {n}', {n: count(unknown)}));
        show(parts.clear, chosen.length > 0);
        const able = state.shown.filter(file => !file.problem && !file.ours);
        const here = able.filter(file => state.selected.has(file.name)).length;
        parts.all.checked = able.length > 0 && here === able.length;
        parts.all.indeterminate = here > 0 && here < able.length;
    }

    function sum(files, field) {
        return files.reduce((total, file) => total + file[field], 0);
    }

    function totalText(chosen) {
        const before = sum(chosen, 'bytes'), after = chosen.map(expected);
        if (after.some(bytes => bytes == null)) return size(before);
        return sizes(before, after.reduce((total, bytes) => total + bytes, 0));
    }

    // Target ------------------------------------------------------------------------------------------------------

    const UNITS = {size: 'MB', retention: '%', rank: ''};

    function frameTarget() {
        parts.subject = el('strong', {class: 'resize-lora-cut', id: 'resize_lora_subject'});
        parts.subjectNote = el('span', {class: 'resize-lora-quiet'});
        parts.stop = button(t('Stop'), () => cancel([state.analysing.get(state.current)]), {hidden: true});
        parts.target.append(
            el('div', {class: 'resize-lora-subject'}, parts.subject, parts.subjectNote, parts.stop),
            framePresets(), frameSlider(), frameFigures(),
        );
        parts.warnings = el('ul', {class: 'resize-lora-warnings', id: 'resize_lora_warnings', 'aria-live': 'polite'});
        parts.plot = el('div', {class: 'resize-lora-plot', id: 'resize_lora_plot', on: {pointerdown: plotDown, pointermove: plotMove}});
        parts.bars = el('div', {class: 'resize-lora-bars', id: 'resize_lora_bars'});
        parts.target.append(parts.warnings, parts.plot, parts.bars, frameRecipe(), frameAdvanced());
        new ResizeObserver(drawPictures).observe(parts.plot);
    }

    function framePresets() {
        parts.presets = {};
        const choices = PRESETS.map(name => {
            const radio = el('input', {type: 'radio', name: 'resize_lora_preset', id: `resize_lora_${name}`, on: {change: () => setTarget({mode: 'preset', preset: name})}});
            const bytes = el('span', {class: 'resize-lora-quiet'}, '–');
            parts.presets[name] = {radio, bytes};
            return el('label', {title: state.hello.presets[name]}, radio, el('span', {class: 'resize-lora-preset-name'}, t(PRESET_WORDS[name])), bytes);
        });
        return el('div', {class: 'resize-lora-presets', role: 'radiogroup', 'aria-label': t('Preset')}, choices);
    }

    function frameSlider() {
        const meanings = [['size', t('Size')], ['retention', t('Retention')], ['rank', t('Rank')]];
        parts.meaning = chooser('resize_lora_meaning', t('What the slider sets'), meanings, state.meaning, setMeaning);
        parts.slider = el('input', {type: 'range', id: 'resize_lora_slider', min: '0', max: '200', step: '1', 'aria-label': t('Target'), on: {input: slide, change: () => askPlan()}});
        parts.number = el('input', {type: 'number', id: 'resize_lora_number', step: 'any', 'aria-label': t('Target'), on: {input: typeNumber, change: drawTargetAnew}});
        parts.unit = el('span', {class: 'resize-lora-quiet resize-lora-unit'});
        return el('div', {class: 'resize-lora-slider'}, parts.meaning, parts.slider, el('span', {class: 'resize-lora-number'}, parts.number, parts.unit));
    }

    function frameFigures() {
        const figure = (name, text, hint) => {
            parts[name] = el('span', {class: 'resize-lora-figure', id: `resize_lora_${name}`}, '–');
            return el('div', {title: hint}, el('span', {class: 'resize-lora-quiet'}, t(text)), parts[name]);
        };
        parts.figures = el('div', {class: 'resize-lora-figures', role: 'status'},
            figure('figureSize', 'Size'), figure('figureSaved', 'Saved'),
            figure('figureRetention', 'Weight retention', t("Share of the whole LoRA's Frobenius norm that stays")),
            figure('figureRanks', 'Ranks'), figure('figureGone', 'Layers that fall away'));
        return parts.figures;
    }

    function frameRecipe() {
        parts.recipe = el('input', {
            type: 'text', id: 'resize_lora_recipe', spellcheck: 'false', autocomplete: 'off', 'aria-describedby': 'resize_lora_fault',
            on: {input: typeRecipe, blur: drawTarget},
        });
        parts.fault = el('p', {id: 'resize_lora_fault', class: 'resize-lora-fault', role: 'alert'});
        const hint = t('What is kept, in words: scores, one selection, limits. Type to change it');
        return el('div', null, labelled(t('Recipe'), parts.recipe, hint), parts.fault);
    }

    /* Only an answer about the text that is in the box counts. */
    const checkRecipe = later(async () => {
        const {recipe} = state.target;
        const answer = await checked(recipe);
        if (state.target.mode !== 'recipe' || recipe !== state.target.recipe) return;
        state.recipe = {text: recipe, ok: answer.ok};
        showFault(recipe, answer);
        drawTarget();
        drawRows();
        askPlan();
    }, 150);

    function checked(recipe) {
        if (!recipe) return {ok: false, message: '', column: 0};
        return call('check_recipe', {text: recipe}).catch(error => ({ok: false, message: error.message, column: 0}));
    }

    function typeRecipe() {
        state.target = {...state.target, mode: 'recipe', recipe: parts.recipe.value.trim()};
        drawTarget();
        drawRows();
        drawTotals();
        checkRecipe();
    }

    function showFault(text, answer) {
        parts.recipe.setAttribute('aria-invalid', String(!answer.ok));
        const place = answer.column ? `${text.slice(0, answer.column - 1)}▸${text.slice(answer.column - 1)}` : '';
        parts.fault.replaceChildren(...(answer.ok ? [] : [el('code', null, place), ` ${answer.message}`]));
    }

    /* A new target, that did not come from the recipe box. */
    function setTarget(change, dragging) {
        state.target = {...state.target, ...change};
        state.numberIsBad = false;
        if (state.target.mode in UNITS) state.meaning = state.target.mode;
        parts.recipe.removeAttribute('aria-invalid');
        parts.fault.replaceChildren();
        drawTarget();
        drawRows();
        drawTotals();
        if (!dragging || !table() || state.target.mode === 'rank') askPlanSoon();
    }

    function setMeaning(meaning) {
        const now = estimate();
        state.meaning = meaning;
        const value = now && {size: round(now.bytes / MIB, 2), retention: round(now.retention, 4), rank: Math.max(1, now.ranks[2])}[meaning];
        setTarget({mode: meaning, ...(value ? {[meaning]: value} : {})});
    }

    function round(value, places) {
        return Number(value.toFixed(places));
    }

    function slide() {
        const at = Number(parts.slider.value), points = table();
        if (state.meaning === 'rank') setTarget({mode: 'rank', rank: at}, true);
        else if (points) setPoint(points[Math.min(at, points.length - 1)]);
    }

    /* Size in steps of 0.01 MB, rounded up so that the point itself still fits. */
    function setPoint(point) {
        const value = state.meaning === 'size' ? Math.ceil(point.bytes / MIB * 100) / 100 : point.retention;
        setTarget({mode: state.meaning, [state.meaning]: value}, true);
    }

    /* What is typed is the target at once, so that no button works on what stood there before. */
    function typeNumber() {
        const value = Number(parts.number.value);
        const most = {size: 1e6, retention: 100, rank: 1e5}[state.meaning];
        if (value > 0 && value <= most) {
            const exact = {size: value, retention: value / 100, rank: Math.max(1, Math.round(value))}[state.meaning];
            setTarget({mode: state.meaning, [state.meaning]: exact}, true);
            askPlanAfterTyping();
            return;
        }
        state.numberIsBad = true;
        drawTarget();
        drawRows();
    }

    const askPlanAfterTyping = later(askPlan, 300);

    /* The field was left: a number that cannot be used gives way to the target. */
    function drawTargetAnew() {
        state.numberIsBad = false;
        drawTarget();
        drawRows();
        askPlanSoon();
    }

    function drawTarget() {
        if (!parts.presets) return;
        const file = state.files.get(state.current), now = estimate();
        drawSubject(file);
        drawStudyHead();
        drawPresets(file);
        drawSlider(now);
        drawFigures(file, now);
        drawWarnings(file, now);
        if (document.activeElement !== parts.recipe || state.target.mode !== 'recipe') {
            const text = state.target.mode === 'recipe' ? state.target.recipe : wantedText();
            if (parts.recipe.value !== text) parts.recipe.value = text;
        }
        drawPictures();
        drawActions();
    }

    function drawSubject(file) {
        const more = state.selected.size - Number(state.selected.has(state.current));
        const many = state.selected.size > 1 ? t('and {n} more', {n: count(more)}) : '', going = analysingText();
        say(parts.subject, file ? file.name : t('Choose a LoRA.'));
        say(parts.subjectNote, file ? [many, going].filter(Boolean).join(' · ') : '');
        show(parts.stop, Boolean(going));
    }

    function analysingText() {
        if (!state.analysing.has(state.current)) return '';
        const job = state.jobs.get(state.analysing.get(state.current));
        return job && job.total ? `${t('analysing…')} ${job.done} / ${job.total}` : t('analysing…');
    }

    function drawPresets(file) {
        const known = analysis();
        const predicted = (file && file.predicted) || {};
        for (const name of PRESETS) {
            const {radio, bytes} = parts.presets[name];
            const found = known ? (known.presets[name] || {}).bytes : predicted[name], preset = plainOptions() && found;
            radio.checked = state.target.mode === 'preset' && state.target.preset === name;
            say(bytes, preset ? size(preset) : '–');
        }
    }

    function drawSlider(now) {
        const points = table(), {meaning} = state, {slider} = parts;
        const value = sliderValue(now);
        parts.meaning.value = meaning;
        slider.min = meaning === 'rank' ? '1' : '0';
        const most = String(sliderMost(points));
        if (slider.max !== most) slider.max = most;
        slider.disabled = meaning !== 'rank' && !points;
        const at = sliderPlace(points, value);
        if (at != null && Number(slider.value) !== at) slider.value = String(at);
        slider.setAttribute('aria-valuetext', refusal() || numberText(meaning, value));
        say(parts.unit, UNITS[meaning]);
        drawNumber(value);
    }

    /* What is being typed stays as it is typed. */
    function drawNumber(value) {
        const {target, meaning} = state, {number} = parts, isTarget = target.mode === meaning;
        number.setAttribute('aria-invalid', String(state.numberIsBad || (isTarget && refusal() !== '')));
        if (document.activeElement === number && (isTarget || state.numberIsBad)) return;
        const text = fieldText(meaning, value);
        if (number.value !== text) number.value = text;
    }

    /* The current number of the slider: set by hand, or converted from another kind of target. */
    function sliderValue(now) {
        const {target, meaning} = state;
        if (target.mode === meaning) return target[meaning];
        return now ? {size: now.bytes / MIB, retention: now.retention, rank: now.ranks[2]}[meaning] : null;
    }

    function sliderMost(points) {
        if (state.meaning !== 'rank') return points ? points.length - 1 : 200;
        return analysis() ? analysis().ranks[2] : 128;
    }

    function sliderPlace(points, value) {
        if (state.meaning === 'rank') return value;
        return points && value != null ? pointFor(points, {mode: state.meaning, [state.meaning]: value}) : 0;
    }

    function fieldText(meaning, value) {
        if (value == null) return '';
        return String(meaning === 'retention' ? round(100 * value, 2) : round(value, 2));
    }

    function numberText(meaning, value) {
        if (value == null) return '';
        return {size: `${digits(value)} MB`, retention: percent(value), rank: String(value)}[meaning];
    }

    const figures = {of: null};

    /* Until the new figures come, those of the older choice stay, and look it; those of another LoRA go. */
    function drawFigures(file, now) {
        const isOld = !now && isAwaited() && figures.of === state.current;
        const {classList} = parts.figures;
        classList.toggle('resize-lora-stale', isOld);
        classList.toggle('resize-lora-guess', Boolean(now && !now.exact));
        parts.figures.setAttribute('aria-busy', String(isAwaited()));
        if (isOld) return;
        figures.of = now ? state.current : null;
        const texts = now ? figureTexts(file.bytes, now) : [size(file && file.bytes), '–', '–', '–', '–'];
        [parts.figureSize, parts.figureSaved, parts.figureRetention, parts.figureRanks, parts.figureGone].forEach((part, i) => say(part, texts[i]));
    }

    function figureTexts(before, now) {
        const old = now.ranks_before || analysis().ranks;
        return [sizes(before, now.bytes), saving(before, now.bytes), percent(now.retention), `${ranks(old)} → ${ranks(now.ranks)}`, String(now.layers_gone)];
    }

    function drawWarnings(file, now) {
        const told = warnings(file, now).map(text => el('li', null, text));
        const same = told.map(item => item.textContent).join('\n') === [...parts.warnings.children].map(item => item.textContent).join('\n');
        if (!same) parts.warnings.replaceChildren(...told);
    }

    /* Said before anything is written: what the server found, and what the page sees while dragging. */
    function warnings(file, now) {
        if (!file) return [];
        const known = (analysis() || {warnings: []}).warnings, found = now && now.exact ? [...known.filter(one => one.kind === 'flat'), ...now.warnings] : known;
        const texts = [file.problem, state.trouble, targetIsGood() ? refusal() : ''];
        texts.push(...found.map(one => one.template ? t(one.template, one.values) : one.text));
        if (now) texts.push(...(now.exact ? now.notes : foreseen(file, now, found.map(one => one.kind))));
        return [...new Set(texts.filter(Boolean))];
    }

    /* What the server will say of the exact figures, unless it has. */
    function foreseen(file, now, said) {
        const texts = [], {floor} = state.hello;
        if (now.bytes >= file.bytes && !said.includes('not_smaller')) texts.push(t('The new file would not be smaller.'));
        if (now.retention < floor && !said.includes('low_retention')) texts.push(t('Weight retention is under {floor}: expect a visible difference.', {floor: percent(floor, 0)}));
        return texts;
    }

    // Pictures of numbers -----------------------------------------------------------------------------------------

    const PLOT = {height: 170, left: 38, right: 12, top: 12, bottom: 26};

    function drawPictures() {
        if (!parts.plot || !parts.plot.clientWidth) return;
        drawPlot();
        drawBars();
    }

    function plotScale() {
        const known = analysis(), width = parts.plot.clientWidth;
        if (!known || !known.table) return null;
        const points = known.table, most = Math.max(known.bytes, points[points.length - 1].bytes), least = points[0].retention;
        const x = bytes => PLOT.left + (width - PLOT.left - PLOT.right) * bytes / most;
        const y = kept => PLOT.top + (PLOT.height - PLOT.top - PLOT.bottom) * (1 - kept) / Math.max(1e-6, 1 - least);
        return {known, points, width, most, least, x, y};
    }

    function drawPlot() {
        const scale = plotScale(), now = estimate(), isOld = !now && isAwaited();
        parts.plot.classList.toggle('resize-lora-stale', isOld && Boolean(parts.plotKey));
        const key = JSON.stringify([state.current, state.epoch, scale && scale.width, Boolean(scale), plotText(), now]);
        if (parts.plotKey === key || (isOld && scale && parts.plotOf === state.current)) return;
        parts.plotKey = key;
        parts.plotOf = state.current;
        if (!scale) {
            parts.plot.replaceChildren(el('p', {class: 'resize-lora-quiet resize-lora-empty'}, plotText()));
            return;
        }
        const shape = scale.points.map(point => `${scale.x(point.bytes).toFixed(1)},${scale.y(point.retention).toFixed(1)}`).join(' ');
        parts.plot.replaceChildren(draw('svg', {
            width: String(scale.width), height: String(PLOT.height), role: 'img',
            'aria-label': now ? t('Retention against size. Now {size}, {retention}', {size: size(now.bytes), retention: percent(now.retention)}) : t('Retention against size'),
        }, axes(scale), draw('polyline', {points: shape, class: 'resize-lora-curve'}), presetMarks(scale), now ? choiceMark(scale, now) : [], presetNames(scale, now)));
    }

    function plotText() {
        const file = state.files.get(state.current);
        if (!file || file.problem) return '';
        return state.analysing.has(state.current) ? t('analysing…') : t('The curve of retention over size comes with the analysis.');
    }

    function axes({known, width, most, least, x, y}) {
        const bottom = PLOT.height - PLOT.bottom, made = [];
        const step = niceStep((1 - least) / 3);
        for (let kept = 1; kept >= least - 1e-9; kept -= step) {
            made.push(draw('line', {x1: PLOT.left, x2: width - PLOT.right, y1: y(kept), y2: y(kept), class: 'resize-lora-grid'}));
            made.push(draw('text', {x: PLOT.left - 6, y: y(kept) + 4, 'text-anchor': 'end'}, `${round(100 * kept, 1)}%`));
        }
        const stride = niceStep(most / MIB / 4);
        for (let value = 0; x(value * MIB) < width - PLOT.right - 34; value += stride) {
            made.push(draw('text', {x: x(value * MIB), y: bottom + 17, 'text-anchor': 'middle'}, String(round(value, 2))));
        }
        made.push(draw('text', {x: width - PLOT.right, y: bottom + 17, 'text-anchor': 'end'}, 'MB'));
        made.push(draw('line', {x1: x(known.bytes), x2: x(known.bytes), y1: PLOT.top, y2: bottom, class: 'resize-lora-source'}));
        return made;
    }

    function niceStep(value) {
        const power = 10 ** Math.floor(Math.log10(value));
        return [1, 2, 5, 10].map(times => times * power).find(step => step >= value) || 10 * power;
    }

    function presetMarks({known, x, y}) {
        const marks = PRESETS.filter(name => known.presets[name]).map(name => known.presets[name]);
        return draw('g', {class: 'resize-lora-mark'}, marks.map(preset =>
            draw('circle', {cx: x(preset.bytes), cy: y(preset.retention), r: 4})));
    }

    /* Last of all, so that no line runs through them. Presets that come to the same file share one place, a name at
       the foot stays above the axis' figures, and one that would run into another or the choice's figures is left out. */
    function presetNames({known, x, y, width}, now) {
        const places = new Map(), foot = PLOT.height - PLOT.bottom - 2;
        for (const name of PRESETS.filter(one => known.presets[one])) {
            const preset = known.presets[name], at = `${preset.bytes} ${preset.retention}`;
            places.set(at, [...(places.get(at) || []), name]);
        }
        const labels = [...places.values()].map(names => {
            const preset = known.presets[names[0]], text = names.map(name => t(PRESET_WORDS[name])).join(', ');
            return {left: x(preset.bytes) + 7, top: Math.min(y(preset.retention) + 13, foot), text};
        }).filter(({left, top, text}) => !now || !meetsChoice({x, width}, now, left, top, text));
        const free = labels.filter((label, i) => !labels.slice(0, i).some(other => meet(label, other)));
        return draw('g', {class: 'resize-lora-preset-names'}, free.map(({left, top, text}) => draw('text', {x: left, y: top}, text)));
    }

    function meet(one, other) {
        const ends = label => label.left + LETTER * label.text.length;
        return Math.abs(one.top - other.top) < 11 && one.left < ends(other) && other.left < ends(one);
    }

    const LETTER = 7;  // pixels, rather more than less

    function meetsChoice(scale, now, left, top, text) {
        const told = choiceText(scale, now), wide = told.text.length * LETTER, from = told.end ? told.x - wide : told.x;
        return Math.abs(top - told.y) < 13 && left < from + wide && from < left + text.length * LETTER;
    }

    function choiceText({x, width}, now) {
        const cx = x(now.bytes), end = cx > width * 0.6;
        return {x: end ? cx - 6 : cx + 6, y: PLOT.height - PLOT.bottom - 7, end, text: `${size(now.bytes)}, ${percent(now.retention)}`};
    }

    function choiceMark(scale, now) {
        const cx = scale.x(now.bytes), cy = scale.y(now.retention), told = choiceText(scale, now);
        return draw('g', {class: 'resize-lora-choice'},
            draw('path', {d: `M${cx},${PLOT.height - PLOT.bottom}V${cy}H${PLOT.left}`}),
            draw('circle', {cx, cy, r: 6}),
            draw('text', {x: told.x, y: told.y, 'text-anchor': told.end ? 'end' : 'start'}, told.text));
    }

    function plotDown(event) {
        if (event.button === 0) plotTo(event);
    }

    function plotMove(event) {
        if (event.buttons === 1 && event.pointerType === 'mouse') plotTo(event);
    }

    function plotTo(event) {
        const scale = plotScale(), points = table();
        if (!scale || !points) return;
        const x = event.clientX - parts.plot.getBoundingClientRect().left;
        const distance = point => Math.abs(scale.x(point.bytes) - x);
        const nearest = points.reduce((best, point) => distance(point) < distance(best) ? point : best);
        if (state.meaning === 'rank') state.meaning = 'size';
        setPoint(nearest);
        askPlanSoon();
    }

    const BARS = {height: 126, top: 14, bottom: 48};

    function drawBars() {
        const now = estimate(), blocks = now && now.blocks, isOld = !blocks && (Boolean(now) || isAwaited());
        const width = parts.bars.clientWidth, key = JSON.stringify([state.current, width, blocks, isOld]);
        parts.bars.classList.toggle('resize-lora-stale', isOld);
        if (parts.barsKey === key || (isOld && parts.barsOf === state.current)) return;
        parts.barsKey = key;
        parts.barsOf = state.current;
        parts.bars.replaceChildren(...(blocks ? [barPicture(Object.entries(blocks), width)] : []));
    }

    /* One column a block, in the model's order: the outline is the old rank, the filled part what is kept. */
    function barPicture(blocks, width) {
        const most = Math.max(1, ...blocks.map(([, block]) => block.old)), step = width / blocks.length;
        const full = BARS.height - BARS.top - BARS.bottom, floor = BARS.height - BARS.bottom;
        const columns = blocks.map(([name, {old, kept}], i) => {
            const x = i * step + 1, wide = Math.max(2, Math.min(28, step - 3)), tall = full * (kept || 0) / most;
            return draw('g', {transform: `translate(${(x + (step - wide) / 2).toFixed(1)},0)`},
                draw('title', null, `${name}: ${digits(old)} → ${digits(kept || 0)}`),
                draw('rect', {x: 0, y: floor - full * old / most, width: wide, height: full * old / most, class: 'resize-lora-bar-old'}),
                draw('rect', {x: 0, y: floor - tall, width: wide, height: tall, class: 'resize-lora-bar'}),
                step > 15 ? draw('text', {x: wide / 2, y: floor - tall - 3, 'text-anchor': 'middle', class: 'resize-lora-bar-number'}, String(Math.round(kept || 0))) : [],
                step > 9 ? draw('text', {transform: `translate(${wide / 2 + 4},${floor + 6}) rotate(-90)`, 'text-anchor': 'end'}, name) : []);
        });
        const told = blocks.map(([name, {old, kept}]) => `${name} ${Math.round(old)} → ${Math.round(kept || 0)}`).join(', ');
        return draw('svg', {width: String(width), height: String(BARS.height), role: 'img', 'aria-label': `${t('Mean rank by block, old and kept')}: ${told}`}, columns);
    }

    // Advanced ----------------------------------------------------------------------------------------------------

    const LIMITS = ['min_rank', 'max_rank', 'max_conv_rank'];

    function frameAdvanced() {
        const words = state.hello.words || {scores: {}, limits: {}};
        const parsedScores = scoreItems(DEFAULTS.scores);
        parts.scores = {};
        const field = (name, text, hint, step) => {
            const input = el('input', {type: 'number', min: '0', step, id: `resize_lora_${name}`, on: {change: takeScores}});
            input.value = name in parsedScores ? String(parsedScores[name]) : '';
            parts.scores[name] = input;
            return labelled(text, input, hint);
        };
        const option = (name, text, choices) => labelled(text, chooser(`resize_lora_${name}`, text, choices, state.options[name], value => setOption(name, value)));
        const rescale = el('input', {type: 'number', min: '0.01', step: '0.05', id: 'resize_lora_rescale', value: '1', on: {change: () => setOption('rescale', Number(rescale.value) > 0 ? Number(rescale.value) : 1)}});
        const suffix = el('input', {type: 'text', id: 'resize_lora_suffix', value: state.options.suffix, on: {change: () => setOption('suffix', suffix.value)}});
        const sidecars = el('input', {type: 'checkbox', id: 'resize_lora_sidecars', checked: state.options.sidecars, on: {change: () => setOption('sidecars', sidecars.checked)}});
        return el('details', {class: 'resize-lora-advanced', id: 'resize_lora_advanced'},
            el('summary', null, t('Advanced')),
            el('fieldset', null, el('legend', null, t('Scores, with weights')), Object.entries(words.scores).map(([name, hint]) => field(name, name, hint, '0.1'))),
            el('fieldset', null, el('legend', null, t('Limits')), LIMITS.map(name => field(name, name, words.limits[name], '1'))),
            el('fieldset', null, el('legend', null, t('New file')),
                option('dtype', t('Numbers'), [['16', 'float16'], ['bf16', 'bfloat16'], ['32', 'float32'], ['8', 'float8'], ['same', t('as they were')]]),
                option('naming', t('Spelling of layers'), [['same', t('as it was')], ['kohya', 'kohya']]),
                labelled(t('Strength'), rescale, t('Baked into the new file')),
                labelled(t('End of the name'), suffix, '{size} {retention} {rank}'),
                folderField(),
                el('label', {class: 'resize-lora-check'}, sidecars, t('Copy preview and description'))),
            can('generate') ? el('fieldset', null, el('legend', null, t('Compare')), withoutField()) : []);
    }

    function withoutField() {
        const without = el('input', {type: 'checkbox', id: 'resize_lora_without', checked: state.without, on: {change: () => { state.without = without.checked; }}});
        return el('label', {class: 'resize-lora-check'}, without, t('Also without the LoRA, to see what it does at all'));
    }

    function folderField() {
        if (state.hello.remote) return el('p', {class: 'resize-lora-quiet'}, t('Other machines can reach this page, so no folder is offered.'));
        const folder = el('input', {type: 'text', id: 'resize_lora_folder', placeholder: t('beside the source'), on: {change: () => setOption('folder', folder.value.trim())}});
        return labelled(t('Sub-folder'), folder);
    }

    function scoreItems(text) {
        return Object.fromEntries(text.split(',').map(item => item.split('=')).map(([name, value]) => [name, value === undefined ? 1 : Number(value)]));
    }

    function takeScores() {
        const items = Object.entries(parts.scores).filter(([, input]) => Number(input.value) > 0);
        setOption('scores', items.map(([name, input]) => `${name}=${Number(input.value)}`).join(',') || DEFAULTS.scores);
    }

    function setOption(name, value) {
        state.options[name] = value;
        drawTarget();
        drawRows();
        askPlanSoon();
    }

    // Run, queue, results -----------------------------------------------------------------------------------------

    function frameActions() {
        parts.run = button('', run, {id: 'resize_lora_generate', class: 'resize-lora-button-plain resize-lora-primary', title: 'Ctrl+Enter'});
        parts.cancel = button(t('Cancel'), cancelOwn, {id: 'resize_lora_interrupt', title: t('Stop what this page started (Esc)')});
        parts.actions.append(parts.run, parts.cancel, bakeButton(), extractButton());
    }

    function drawActions() {
        if (!parts.run) return;
        const names = chosenNames();
        const words = names.length > 1 ? t('Resize {n} LoRAs', {n: count(names.length)}) : t('Resize');
        say(parts.run, names.length && state.busy ? `${words} · ${t('waits for the picture')}` : words);
        parts.run.disabled = !names.length || ordering || isBarred(names);
        parts.cancel.disabled = !ownActiveJobs().length;
    }

    const MOST_JOBS = 50;

    function drawQueue() {
        if (!parts.queue) return;
        const jobs = [...state.jobs.values()].filter(isShownInQueue), shown = jobs.slice(0, MOST_JOBS);
        const rows = parts.jobRows = parts.jobRows || new Map();
        show(parts.queue, jobs.length > 0);
        for (const [id, row] of rows) if (!shown.some(job => job.id === id)) { row.remove(); rows.delete(id); }
        for (const job of shown) {
            if (!rows.has(job.id)) rows.set(job.id, parts.jobList.appendChild(makeJobRow(job)));
            fillJobRow(rows.get(job.id), job);
        }
        drawQueueHead(jobs);
        drawSubject(state.files.get(state.current));
    }

    /* What goes on, but for the analysis that the target shows already; and what failed, until it is dismissed. */
    function isShownInQueue(job) {
        if (ENDED.includes(job.state)) return job.state === 'failed' && !job.seen && job.kind !== 'analyse' && job.kind !== 'spectra';
        return job.kind !== 'analyse' || job.name !== state.current || job.files > 1;
    }

    function drawQueueHead(jobs) {
        const active = jobs.filter(job => !ENDED.includes(job.state)).length, failed = jobs.length - active;
        const said = [active ? t('{n} jobs', {n: count(active)}) : '', failed ? t('{n} failed', {n: count(failed)}) : '', active && state.left != null ? duration(state.left) : ''];
        say(parts.queueText, said.filter(Boolean).join(' · '));
        show(parts.dismiss, failed > 1);
        say(parts.queueRest, jobs.length > MOST_JOBS ? t('and {n} more', {n: count(jobs.length - MOST_JOBS)}) : '');
    }

    function frameQueue() {
        parts.queueText = el('span', {class: 'resize-lora-quiet', role: 'status'});
        parts.queueRest = el('span', {class: 'resize-lora-quiet'});
        parts.jobList = el('div', {class: 'resize-lora-jobs'});
        parts.dismiss = button(t('Dismiss all'), () => {
            [...state.jobs.values()].filter(job => job.state === 'failed').forEach(job => { job.seen = true; });
            drawQueue();
        }, {hidden: true});
        parts.queue.append(el('div', {class: 'resize-lora-results-head'}, el('strong', null, t('Queue')), parts.queueText, parts.dismiss), parts.jobList, parts.queueRest);
    }

    function makeJobRow(job) {
        const row = el('div', {class: 'resize-lora-job', 'data-job': job.id});
        row.parts = {
            title: el('span', {class: 'resize-lora-cut'}), text: el('span', {class: 'resize-lora-quiet', role: 'status'}),
            fill: el('span', {class: 'resize-lora-fill'}), stop: button(t('Cancel'), () => dismiss(job.id)),
        };
        row.bar = el('span', {class: 'resize-lora-progress', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-label': job.title}, row.parts.fill);
        row.append(row.parts.title, row.parts.text, row.parts.stop, row.bar);
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
        const share = job.total ? job.done / job.total : 0;
        say(row.parts.title, job.title);
        say(row.parts.text, [state.mine.has(job.id) ? '' : t('started elsewhere'), jobText(job)].filter(Boolean).join(' · '));
        row.classList.toggle('resize-lora-failed', job.state === 'failed');
        row.parts.fill.style.width = `${100 * share}%`;
        row.bar.setAttribute('aria-valuenow', String(Math.round(100 * share)));
        say(row.parts.stop, job.state === 'failed' ? t('Dismiss') : t('Cancel'));
        row.parts.stop.setAttribute('aria-label', `${row.parts.stop.textContent}: ${job.title}`);
    }

    function jobText(job) {
        if (job.state === 'failed') return job.error ? job.error.message : t('failed');
        if (job.state === 'waits') return t('waits for the picture');
        if (job.state === 'queued') return job.place ? t('{n} before it', {n: count(job.place)}) : t('queued');
        const told = job.kind === 'compare' ? [pictureText(job)] : [fileText(job), layerText(job), job.stage && t(job.stage)];
        if (job.seconds_left != null) told.push(duration(job.seconds_left));
        return told.filter(Boolean).join(', ');
    }

    function fileText(job) {
        return job.files > 1 ? t('file {n} of {all}', {n: job.file, all: job.files}) : '';
    }

    function layerText(job) {
        return job.total ? t('layer {n} of {all}', {n: job.done, all: job.total}) : '';
    }

    /* The picture that is being made, not those that are done. */
    function pictureText(job) {
        return job.total ? t('picture {n} of {all}', {n: Math.min(job.done + 1, job.total), all: job.total}) : '';
    }

    function drawResults() {
        if (!parts.results) return;
        const all = [...state.results].reverse(), shown = all.slice(0, state.shownResults);
        const tools = [];
        if (all.length) tools.push(button(t('Save as CSV'), saveCsv, {id: 'resize_lora_csv'}));
        if (state.trash.items) tools.push(...trashTools());
        parts.results.replaceChildren(
            el('div', {class: 'resize-lora-results-head'}, el('strong', null, t('Results')), tools),
            all.length ? el('div', {role: 'list'}, shown.map(resultRow)) : el('p', {class: 'resize-lora-quiet'}, t('What you resize is listed here, and can be undone.')),
            ...(all.length > shown.length || state.moreResults ? [button(t('Show earlier results'), showEarlier, {id: 'resize_lora_earlier'})] : []),
        );
    }

    async function showEarlier() {
        state.shownResults += 200;
        try {
            if (state.moreResults && state.shownResults > state.results.length) {
                const answer = await call('results', {before: state.results[0].result});
                state.results = [...answer.results, ...state.results];
                state.moreResults = Boolean(answer.more);
            }
        } catch (error) {
            complain(error);
        }
        drawResults();
    }

    /* When a file of an earlier session was made. */
    function earlierText(result) {
        if (!result.earlier || !result.made) return '';
        return new Date(1000 * result.made).toLocaleDateString();
    }

    function resultRow(result) {
        const there = result.state === 'there';
        const figure = (text, hint) => el('span', {class: 'resize-lora-result-figure', title: hint}, text);
        return el('div', {class: 'resize-lora-result', role: 'listitem', 'data-result': result.result, 'data-state': result.state},
            el('span', {class: 'resize-lora-cut resize-lora-result-name', title: result.recipe}, el('span', {class: 'resize-lora-quiet'}, `${result.name} → `), el('strong', null, result.output), el('span', {class: 'resize-lora-quiet'}, earlierText(result) && ` · ${earlierText(result)}`)),
            figure(sizes(result.bytes_before, result.bytes_after)), figure(saving(result.bytes_before, result.bytes_after)),
            figure(percent(result.retention), t('Weight retention')),
            el('span', {class: 'resize-lora-result-tools'}, there ? thereTools(result) : awayTools(result)),
            result.notes && result.notes.length ? el('span', {class: 'resize-lora-quiet resize-lora-result-note'}, result.notes.join(' ')) : []);
    }

    function thereTools(result) {
        return [result.changed ? changedMark() : [], offersFor(result)];
    }

    /* The file is not the one that was written any more, so Undo may refuse to move it. */
    function changedMark() {
        return el('span', {class: 'resize-lora-made resize-lora-changed', title: t('The file was changed after it was made. Undo may refuse to move it.')}, t('changed'));
    }

    function offersFor(result) {
        const about = {result: result.result}, named = text => ({'aria-label': `${text}: ${result.output}`});
        if (result.baked) return bakedTools(result, named);
        const tools = can('prompt')
            ? [button(t('Try in txt2img'), () => tryIt(about, false), named(t('Try in txt2img'))), button(t('Try and generate'), () => tryIt(about, true), named(t('Try and generate')))]
            : [button(t('Copy tag'), () => copyTag(about), named(t('Copy tag')))];
        const away = button(t('Undo'), () => undo(result.result), named(t('Undo')));
        if (result.extracted) return [...tools, away];
        const compare = button(t('Compare'), () => compareIt(about), named(t('Compare')));
        if (!can('generate')) {
            compare.disabled = true;
            compare.title = t('There is nothing here that makes pictures.');
        }
        return [...tools, compare, away];
    }

    function awayTools(result) {
        if (result.state === 'gone') return el('span', {class: 'resize-lora-quiet'}, t('gone'));
        return [el('span', {class: 'resize-lora-quiet'}, t('in the trash')), button(t('Restore'), () => move('restore', {result: result.result}), {'aria-label': `${t('Restore')}: ${result.output}`})];
    }

    function undo(result) {
        return move('undo', {result});
    }

    /* Undo and Restore. */
    async function move(method, what) {
        try {
            const {note} = await call(method, what);
            if (note) toast(note);
            takeResults(await call('results'));
            refreshCards();
            await readLibrary();
        } catch (error) {
            complain(error);
        }
    }

    function trashTools() {
        const words = t('Trash: {n} files, {size}', {n: state.trash.items, size: size(state.trash.bytes)});
        return [button(words, openTrash, {id: 'resize_lora_trash'})];
    }

    async function openTrash() {
        try {
            const {items} = await call('trash');
            const rows = items.map(item => el('div', {class: 'resize-lora-result'}, el('span', {class: 'resize-lora-cut resize-lora-result-name'}, item.name), el('span', null, size(item.bytes)),
                button(t('Restore'), async () => { await move('restore', {item: item.item}); box.close(); }, {'aria-label': `${t('Restore')}: ${item.name}`})));
            const empty = button(t('Empty the trash…'), () => {
                empty.replaceWith(el('span', null, t('Delete {n} files for good?', {n: items.length}), ' ', button(t('Delete'), async () => {
                    await move('empty_trash', {confirm: true});
                    box.close();
                }, {class: 'resize-lora-button-plain resize-lora-danger', id: 'resize_lora_empty_sure'})));
            }, {id: 'resize_lora_empty'});
            const box = dialog(t('Trash'), rows.length ? [...rows, empty] : [el('p', {class: 'resize-lora-quiet'}, t('The trash is empty.'))]);
        } catch (error) {
            complain(error);
        }
    }

    function saveCsv() {
        const columns = ['name', 'output', 'folder', 'bytes_before', 'bytes_after', 'saved', 'retention', 'recipe', 'state'];
        const lines = [columns, ...state.results.map(result => columns.map(column => result[column]))].map(line => line.map(csvCell).join(','));
        const address = URL.createObjectURL(new Blob([`\ufeff${lines.join('\r\n')}\r\n`], {type: 'text/csv'}));
        download(address, 'resize-lora.csv');
        setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    /* A text that a spreadsheet would take for a formula begins with an apostrophe there. */
    function csvCell(value) {
        let text = String(value ?? '');
        if (typeof value === 'string' && /^[\s]*[=+\-@\t\r＝＋－＠]/.test(text)) text = `'${text}`;
        return /[",\r\n\t']/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    }

    function download(address, name) {
        el('a', {href: address, download: name}).click();
    }

    // Dialogs and toasts ------------------------------------------------------------------------------------------

    function dialog(title, content) {
        const close = button(t('Close'), () => box.close());
        const box = el('dialog', {class: 'resize-lora resize-lora-dialog', 'aria-label': title}, el('div', {class: 'resize-lora-results-head'}, el('strong', null, title), close), content);
        box.addEventListener('close', () => box.remove());
        box.addEventListener('keydown', event => event.stopPropagation());
        document.body.append(box);
        box.showModal();
        return box;
    }

    const jobToasts = new Map();

    function toastPlace() {
        let place = document.getElementById('resize_lora_toasts');
        if (!place) document.body.append(place = el('div', {id: 'resize_lora_toasts', class: 'resize-lora', role: 'region', 'aria-label': t('Resize LoRA')}));
        return place;
    }

    /* A short note at the edge; `stays` until it is told to go, or until it is closed. */
    function toast(text, {bad, stays, tools} = {}) {
        const words = el('span', {role: bad ? 'alert' : 'status'}, text), buttons = el('span', {class: 'resize-lora-result-tools'});
        const box = el('div', {class: `resize-lora-toast${bad ? ' resize-lora-failed' : ''}`}, words, buttons, el('button', {type: 'button', class: 'resize-lora-close', 'aria-label': t('Close'), on: {click: () => box.remove()}}, '×'));
        let timer = 0;
        const handle = {
            say(next) { say(words, next); },
            offer(...next) { buttons.replaceChildren(...next); },
            close() { box.remove(); },
            leave() { clearTimeout(timer); timer = setTimeout(() => box.matches(':hover, :focus-within') ? handle.leave() : box.remove(), 9000); },
        };
        handle.offer(...(tools || []));
        if (!stays) handle.leave();
        toastPlace().append(box);
        return handle;
    }

    function followWithToast(job, note) {
        if (!ENDED.includes(job.state)) {
            note.say(`${job.title}: ${jobText(job)}`);
            return;
        }
        jobToasts.delete(job.id);
        note.offer();
        note.leave();
        if (job.state === 'done') sayDone(job, note);
        else note.say(`${job.title}: ${job.state === 'cancelled' ? t('cancelled') : job.error.message}`);
    }

    function sayDone(job, note) {
        if (job.kind === 'bake') offerBaked(job.result, note);
        else if (job.kind === 'compare') note.close();
        else offerResult(job.result, note);
    }

    /* Shows a job until it ends, with a way to stop it. */
    function follow(job, note) {
        own([job]);
        jobToasts.set(job, note);
        note.offer(button(t('Cancel'), () => cancel([job])));
        poll();
    }

    function offerResult(result, note) {
        const about = {result: result.result};
        note.say(`${result.name} ${sizes(result.bytes_before, result.bytes_after)}`);
        note.offer(
            can('prompt') ? button(t('Try'), () => tryIt(about, false)) : button(t('Copy tag'), () => copyTag(about)),
            button(t('Undo'), async () => { await undo(result.result); note.say(t('{name} is in the trash.', {name: result.output})); note.offer(); note.leave(); }));
    }

    // Comparison --------------------------------------------------------------------------------------------------

    async function compareIt(about, tab) {
        try {
            const {job} = await insistOnFile('compare', {...about, settings: pictureSettings(tab || 'txt2img'), without: state.without});
            follow(job, toast(t('Compare'), {stays: true}));
        } catch (error) {
            complain(error);
        }
    }

    /* The settings of the host's page, as far as they are there. */
    function pictureSettings(tab) {
        const value = place => { const box = app().querySelector(`#${tab}_${place}`); return box ? box.value : null; };
        const found = {
            prompt: value('prompt textarea'), negative_prompt: value('neg_prompt textarea'), seed: value('seed input'),
            steps: value('steps input[type=number]'), cfg_scale: value('cfg_scale input[type=number]'),
            width: value('width input[type=number]'), height: value('height input[type=number]'),
            sampler_name: value('sampling input'), scheduler: value('scheduler input'),
        };
        const settings = {};
        for (const [name, text] of Object.entries(found)) {
            if (text == null || (text === '' && !name.endsWith('prompt'))) continue;
            settings[name] = ['prompt', 'negative_prompt', 'sampler_name', 'scheduler'].includes(name) ? text : Number(text);
        }
        return settings;
    }

    /* The pictures are asked for one by one, for they are large. */
    async function openComparison(result) {
        try {
            const pictures = {};
            for (const one of result.pictures) pictures[one.what] = `data:image/png;base64,${(await call('picture', {id: one.id})).png}`;
            showComparison(result, pictures);
        } catch (error) {
            complain(error);
        }
    }

    function showComparison(result, pictures) {
        const picture = (what, text) => el('img', {src: pictures[what], alt: text});
        const over = el('div', {class: 'resize-lora-over'}, picture('original', t('Original')));
        const line = el('div', {class: 'resize-lora-line'});
        const stage = el('div', {class: 'resize-lora-stage'}, picture('resized', t('Resized')), over, line,
            el('span', {class: 'resize-lora-tag'}, t('Original')), el('span', {class: 'resize-lora-tag resize-lora-tag-right'}, t('Resized')));
        const names = {slider: t('Side by side'), difference: t('Difference'), without: t('Without the LoRA')};
        const pages = {slider: stage};
        for (const what of ['difference', 'without']) {
            if (pictures[what]) pages[what] = el('div', {class: 'resize-lora-stage', hidden: true}, picture(what, names[what]));
        }
        const slider = el('input', {type: 'range', id: 'resize_lora_wipe', min: '0', max: '100', value: '50', 'aria-label': t('Original on the left, resized on the right'), on: {input: wipe}});
        function wipe() {
            over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
            line.style.left = `${slider.value}%`;
        }
        stage.addEventListener('pointermove', event => {
            if (event.pointerType === 'mouse' && event.buttons !== 1) return;
            const box = stage.getBoundingClientRect();
            slider.value = String(100 * (event.clientX - box.left) / box.width);
            wipe();
        });
        const view = chooser('resize_lora_view', t('View'), Object.keys(pages).map(key => [key, names[key]]), 'slider', key => {
            Object.entries(pages).forEach(([name, page]) => show(page, name === key));
            show(slider, key === 'slider');
        });
        wipe();
        const save = button(t('Save pictures'), () => savePictures(result, pictures), {id: 'resize_lora_save_pictures'});
        const about = [result.resized.name, `seed ${result.seed}`, `${result.width}×${result.height}`].join(' · ');
        dialog(t('Compare'), [Object.values(pages), slider, el('p', null, apartText(result)), el('div', {class: 'resize-lora-tools'}, view, save, el('span', {class: 'resize-lora-quiet'}, about))]);
        slider.focus();
    }

    function apartText(result) {
        const number = t('Mean pixel difference {number} of 255', {number: round(result.number, 2)});
        return result.effect == null ? `${number}.` : `${number}; ${t('without the LoRA {number}', {number: round(result.effect, 2)})}.`;
    }

    /* Nothing is saved unless asked: each picture goes where the browser puts downloads. */
    function savePictures(result, pictures) {
        for (const [what, address] of Object.entries(pictures)) {
            if (address) download(address, `${result.resized.name}_${what}_${result.seed}.png`);
        }
    }

    // The prompt --------------------------------------------------------------------------------------------------

    const PROMPT_TABS = ['txt2img', 'img2img'];

    async function tryIt(about, generate, tab) {
        try {
            const tag = await insistOnFile('prompt_tag', about);
            const into = PROMPT_TABS.includes(tab) ? tab : 'txt2img';
            const area = app().querySelector(`#${into}_prompt textarea`);
            if (!area) {
                await copyText(tag.tag);
                return;
            }
            const {text, end} = withTag(area.value, tag);
            setText(area, text);
            addNegative(into, tag.negative);
            openTab(`tab_${into}`);
            await untilDrawn(area);
            area.focus();
            area.setSelectionRange(end, end);
            if (generate) find(`${into}_generate`).click();
        } catch (error) {
            complain(error);
        }
    }

    /* A file that the list lacks may be newer than the list: the host looks at its folders before anyone complains. */
    async function insistOnFile(method, params) {
        try {
            return await call(method, params);
        } catch (error) {
            if (error.kind !== 'file') throw error;
            await readLibrary(true);
            return call(method, params);
        }
    }

    /* A tab that was opened a moment ago is drawn a moment later, and what is not drawn cannot have the cursor. */
    async function untilDrawn(element) {
        for (let i = 0; i < 40 && !element.offsetParent; i++) await pause(25);
    }

    function setText(area, text) {
        area.value = text;
        area.dispatchEvent(new Event('input', {bubbles: true}));
    }

    /* The prompt with the new tag in the old one's place, multipliers kept; else at its end with what activates it. */
    function withTag(prompt, tag) {
        const old = new Set(tag.old_names);
        let end = -1, grown = 0;
        const text = prompt.replace(/<(lora|lyco):([^:>]+)((?::[^>]*)?)>/gi, (whole, kind, name, rest, at) => {
            if (!old.has(name) && name !== tag.name) return whole;
            const made = `<${kind}:${tag.name}${rest}>`;
            if (end < 0) end = at + grown + made.length;
            grown += made.length - whole.length;
            return made;
        });
        if (end >= 0) return {text, end};
        const gap = prompt && !/\s$/.test(prompt) ? hostOption('extra_networks_add_text_separator') || ' ' : '';
        const added = prompt + gap + tag.tag + (tag.activation ? ` ${tag.activation}` : '');
        return {text: added, end: added.length};
    }

    function addNegative(tab, negative) {
        const area = negative && app().querySelector(`#${tab}_neg_prompt textarea`);
        if (area && !area.value.includes(negative)) setText(area, area.value ? `${area.value} ${negative}` : negative);
    }

    async function copyTag(about) {
        try {
            await copyText((await insistOnFile('prompt_tag', about)).tag);
        } catch (error) {
            complain(error);
        }
    }

    async function copyText(text) {
        try {
            await navigator.clipboard.writeText(text);
            toast(t('Copied: {text}', {text}));
        } catch {
            toast(text, {stays: true});
        }
    }

    /* Titles of tabs are translated, their order is not. */
    function openTab(id) {
        const nav = tabs => [...tabs.children].find(child => child.classList.contains('tab-nav'));
        const tabs = app().querySelector('#tabs'), panels = tabs ? [...tabs.children].filter(child => child.classList.contains('tabitem')) : [];
        const at = panels.findIndex(panel => panel.id === id);
        if (at >= 0 && nav(tabs)) nav(tabs).querySelectorAll('button')[at].click();
    }

    /* A host draws all its cards anew at each refresh, and with thousands of them it is slow to. So they are drawn once
       where the queue runs empty, and every ten seconds at most while it does not. A host drops a refresh that comes
       during another; where the cards then lack what was made, it is asked for again. */
    const redraw = {timer: null, last: -Infinity, tries: 0, isDue: false};
    const REDRAW_GAP = 10000, MOST_REDRAWS = 3;

    function refreshCards() {
        redraw.isDue = false;
        redraw.tries = 0;
        redrawIn(activeJobs().length ? REDRAW_GAP : redraw.last + REDRAW_GAP - Date.now());
    }

    function queueRanEmpty() {
        if (redraw.timer && !redraw.tries) redrawIn(0, true);
    }

    function redrawIn(wait, sooner) {
        if (redraw.timer && !sooner) return;
        clearTimeout(redraw.timer);
        redraw.timer = setTimeout(redrawCards, Math.max(0, wait));
    }

    function redrawCards() {
        redraw.timer = null;
        const tabs = redraw.tries ? PROMPT_TABS.filter(cardsDiffer) : PROMPT_TABS;
        const hidden = tabs.map(tab => find(`${tab}_lora_extra_refresh_internal`)).filter(Boolean);
        if (!hidden.length || redraw.tries > MOST_REDRAWS) return;
        redraw.tries += 1;
        redraw.last = Date.now();
        for (const one of hidden) one.dispatchEvent(new Event('click'));
        redrawIn(REDRAW_GAP);
    }

    /* False where the cards were never drawn: they come from the host's list then, which knows already. */
    function cardsDiffer(tab) {
        const pane = find(`${tab}_lora_cards`);
        if (!pane) return false;
        const names = new Set([...pane.querySelectorAll('.card')].map(card => card.dataset.name));
        return state.results.some(one => names.has(one.output) !== (one.state === 'there'));
    }

    // Bake my prompt ----------------------------------------------------------------------------------------------

    /* The dialog while it is open: its parts, and the tab that its prompt came from. */
    let baking = null;

    function bakeButton() {
        return button(t('Bake my prompt…'), () => openBake(), {id: 'resize_lora_bake', title: t('Make one LoRA of all LoRAs that a prompt names')});
    }

    function promptArea(tab) {
        return app().querySelector(`#${tab}_prompt textarea`);
    }

    function openBake() {
        const tabs = can('prompt') ? PROMPT_TABS.filter(promptArea) : [];
        const targets = [['', t('All ranks')], ...PRESETS.map(name => [name, t(PRESET_WORDS[name])]), ['panel', t('As set in the tab')]];
        baking = {
            tab: tabs.find(tab => /<(lora|lyco):/.test(promptArea(tab).value)) || tabs[0] || '', target: '', named: false,
            prompt: el('textarea', {id: 'resize_lora_bake_prompt', rows: '4', spellcheck: 'false', on: {input: () => readSoon()}}),
            tags: el('ul', {id: 'resize_lora_bake_tags', class: 'resize-lora-bake-tags', 'aria-live': 'polite'}),
            name: el('input', {type: 'text', id: 'resize_lora_bake_name', on: {input: () => { baking.named = baking.name.value.trim() !== ''; }}}),
            run: button(t('Bake'), bakeIt, {id: 'resize_lora_bake_run', class: 'resize-lora-button-plain resize-lora-primary', disabled: true}),
        };
        const tab = tabs.length > 1 && chooser('resize_lora_bake_tab', t('Prompt of'), tabs.map(one => [one, one]), baking.tab, takePrompt);
        const target = chooser('resize_lora_bake_target', t('Target'), targets, '', value => { baking.target = value; });
        baking.box = dialog(t('Bake my prompt'), [
            el('p', {class: 'resize-lora-quiet'}, t('One LoRA that does what all of these do together, with their strengths. The originals stay.')),
            tab ? labelled(t('Prompt of'), tab) : [], labelled(t('Prompt'), baking.prompt), baking.tags,
            el('div', {class: 'resize-lora-bake-row'}, labelled(t('Target'), target), labelled(t('Name'), baking.name), baking.run),
        ]);
        takePrompt(baking.tab);
        if (!baking.tab) baking.prompt.focus();
    }

    function takePrompt(tab) {
        baking.tab = tab;
        if (tab) baking.prompt.value = promptArea(tab).value;
        readPrompt();
    }

    const readSoon = later(() => readPrompt(), 250);

    async function readPrompt() {
        const mine = baking, prompt = mine.prompt.value;
        try {
            const found = await call('read_prompt', {prompt});
            if (prompt === mine.prompt.value) showTags(mine, found);
        } catch (error) {
            complain(error);
        }
    }

    /* What becomes of each tag, said before anything is written. */
    function showTags(mine, found) {
        const line = one => el('li', {class: one.troubles.length ? 'resize-lora-bake-left' : ''}, el('code', null, one.text), ' ',
            el('span', {class: 'resize-lora-quiet'}, [one.troubles.length ? t('stays as it is') : t('is baked'), ...one.troubles, ...one.remarks].join(' · ')));
        const said = [found.message, ...found.warnings.map(one => one.text)].filter(Boolean);
        mine.tags.replaceChildren(...found.tags.map(line), ...said.map(text => el('li', {class: 'resize-lora-fault'}, text)));
        mine.run.disabled = !found.ok || found.warnings.some(one => one.kind === 'other_family');
        if (!mine.named) mine.name.value = found.name;
    }

    async function bakeIt() {
        const {box, tab, prompt, name, target, run: press} = baking;
        const goal = goalOf(target);
        if (!goal) return;
        press.disabled = true;
        try {
            const {job} = await call('bake', {prompt: prompt.value, name: name.value.trim(), ...goal, options: changedOptions()});
            origins.set(job, {tab, prompt: prompt.value});
            follow(job, toast(`${name.value}: ${t('queued')}`, {stays: true}));
            box.close();
        } catch (error) {
            press.disabled = false;
            baking.tags.append(el('li', {class: 'resize-lora-fault', role: 'alert'}, error.message));
        }
    }

    /* What a dialog's choice means to a call; null where the tab holds half a recipe. */
    function goalOf(choice) {
        if (choice === 'panel') {
            if (targetIsGood()) return wanted();
            toast(t('The recipe in the tab cannot be read. Fix it, or choose another target.'), {bad: true});
            return null;
        }
        if (Number(choice)) return {target: {rank: Number(choice)}};
        return choice ? {target: {preset: choice}} : {};
    }

    /* Job -> where its prompt came from, and how it was. */
    const origins = new Map();

    function originOf(result) {
        const found = [...state.jobs.values()].find(job => job.kind === 'bake' && job.result && job.result.result === result.result);
        return (found && origins.get(found.id)) || {tab: can('prompt') ? 'txt2img' : '', prompt: result.baked.join(' ')};
    }

    function bakedTools(result, named) {
        const use = can('prompt') ? [t('Replace in the prompt'), replaceInPrompt] : [t('Copy prompt'), copyBaked];
        return [button(use[0], () => use[1](result), named(use[0])), button(t('Undo'), () => undo(result.result), named(t('Undo')))];
    }

    function offerBaked(result, note) {
        note.say(`${result.output} ${sizes(result.bytes_before, result.bytes_after)}`);
        note.offer(...bakedTools(result, text => ({'aria-label': `${text}: ${result.output}`})));
    }

    /* The baked tag in place of the others, in the prompt as it is now. */
    async function replaceInPrompt(result) {
        const {tab} = originOf(result), area = promptArea(tab);
        if (!area) return copyBaked(result);
        try {
            const made = await call('bake_into', {result: result.result, prompt: area.value});
            if (!made.replaced) return toast(t('These tags are not in the prompt any more: {tag}', {tag: made.tag}), {stays: true});
            setText(area, made.prompt);
            openTab(`tab_${tab}`);
            area.focus();
        } catch (error) {
            complain(error);
        }
    }

    async function copyBaked(result) {
        try {
            await copyText((await call('bake_into', {result: result.result, prompt: originOf(result).prompt})).prompt);
        } catch (error) {
            complain(error);
        }
    }

    // Extract a LoRA ----------------------------------------------------------------------------------------------

    function extractButton() {
        if (!state.hello.checkpoints.length) return [];
        return button(t('Extract a LoRA…'), openExtract, {id: 'resize_lora_extract', title: t('Make a LoRA of what one checkpoint has and another has not')});
    }

    function openExtract() {
        const titles = state.hello.checkpoints.map(title => [title, title]);
        const live = can('loaded_model'), second = titles[1] || titles[0];
        const form = {tuned: live ? 'loaded' : titles[0][0], base: live ? 'file' : second[0], target: '64'};
        const note = el('p', {class: 'resize-lora-quiet', id: 'resize_lora_extract_note', 'aria-live': 'polite'});
        const pick = (name, text, choices) => labelled(text, chooser(`resize_lora_extract_${name}`, text, choices, form[name], value => { form[name] = value; checkForm(form); }));
        const targets = [['64', t('Rank {n}', {n: 64})], ['128', t('Rank {n}', {n: 128})], ...PRESETS.map(name => [name, t(PRESET_WORDS[name])]), ['panel', t('As set in the tab')]];
        form.name = el('input', {type: 'text', id: 'resize_lora_extract_name', placeholder: t('after both checkpoints')});
        form.encoders = el('input', {type: 'checkbox', id: 'resize_lora_extract_encoders', checked: true});
        form.run = button(t('Extract'), () => extractIt(form), {id: 'resize_lora_extract_run', class: 'resize-lora-button-plain resize-lora-primary'});
        form.note = note;
        form.box = dialog(t('Extract a LoRA'), [
            el('p', {class: 'resize-lora-quiet'}, t('One LoRA that leads from the second model to the first.'), ' ', live ? t('The loaded model beside its own file shows what was merged into it in memory; LoRAs of the prompt do not count.') : ''),
            pick('tuned', t('Model'), [...(live ? [['loaded', t('Loaded checkpoint')]] : []), ...titles]),
            pick('base', t('Compared with'), [...(live ? [['file', t('Its own file')]] : []), ...titles]),
            el('label', {class: 'resize-lora-check'}, form.encoders, t('Text encoders too')), note,
            el('div', {class: 'resize-lora-bake-row'}, pick('target', t('Target'), targets), labelled(t('Name'), form.name), form.run),
        ]);
        checkForm(form);
    }

    /* Only what is in memory can differ from its own file. */
    function checkForm(form) {
        const alone = form.tuned !== 'loaded' && form.base === 'file', same = form.tuned === form.base;
        say(form.note, [alone && t('Only the loaded checkpoint has a file of its own to be compared with; choose another model.'), same && t('These are the same model.')].find(Boolean) || '');
        form.run.disabled = alone || same;
    }

    async function extractIt(form) {
        const goal = goalOf(form.target), name = form.name.value.trim();
        if (!goal) return;
        form.run.disabled = true;
        try {
            const {job} = await call('extract', {tuned: form.tuned, base: form.base, text_encoders: form.encoders.checked, ...(name ? {name} : {}), ...goal, options: changedOptions()});
            follow(job, toast(`${t('Extract a LoRA')}: ${t('queued')}`, {stays: true}));
            form.box.close();
        } catch (error) {
            form.run.disabled = false;
            say(form.note, error.message);
        }
    }

    // Cards -------------------------------------------------------------------------------------------------------

    const SUFFIX = /\.(safetensors|ckpt|pt)$/i;

    /* The LoRA of the card, tree row or library row around an element: {name, tab}; null elsewhere. */
    function cardOf(element) {
        const row = element.closest && element.closest('.card, .tree-list-content-file, .resize-lora-row');
        if (!row) return null;
        if (row.classList.contains('resize-lora-row')) return {name: row.dataset.name, tab: 'txt2img'};
        const page = row.closest('[id$="_lora_cards"], [id$="_lora_tree"]');
        const name = page && cardName(row);
        return name ? {name, tab: page.id.replace(/_lora_(cards|tree)$/, '')} : null;
    }

    function cardName(row) {
        if (row.dataset.name) return row.dataset.name;
        const copy = row.querySelector('.copy-path-button');
        const path = [copy && copy.dataset.clipboardText, row.dataset.path].find(text => text && SUFFIX.test(text));
        if (path) return path.split(/[\\/]/).pop().replace(SUFFIX, '');
        const label = row.querySelector('.tree-list-item-label');
        return label ? label.textContent.trim() : null;
    }

    function onContextMenu(event) {
        if (event.shiftKey || !app().querySelector('#resize_lora_send')) return;
        const target = event.composedPath()[0], card = cardOf(target);
        if (!card || (hostOption('resize_lora_card_menu') === false && !target.closest('.resize-lora-row'))) return;
        event.preventDefault();
        event.stopPropagation();
        openMenu(card, event.clientX, event.clientY);
    }

    /* The small button on a card, for fingers; without it the click would write the LoRA into the prompt. */
    window.resizeLoraFromCard = function (event, tab) {
        event.stopPropagation();
        event.preventDefault();
        const card = cardOf(event.target), box = event.target.getBoundingClientRect();
        if (card) openMenu({...card, tab: tab || card.tab}, box.left, box.bottom);
    };

    let menu = null;

    function openMenu(card, x, y) {
        closeMenu();
        const before = document.activeElement;
        menu = el('nav', {id: 'resize_lora_menu', class: 'resize-lora', role: 'menu', 'aria-label': card.name, on: {keydown: menuKey, contextmenu: event => event.preventDefault()}},
            el('div', {class: 'resize-lora-menu-title resize-lora-cut', role: 'presentation'}, card.name),
            menuItem(t('Resize…'), () => openInTab(card.name)),
            PRESETS.map(name => menuItem(t(`Resize to ${PRESET_WORDS[name]}`), () => resizeNow(card, name), name)),
            el('hr'),
            menuItem(t('Compare with original'), () => compareIt({name: card.name}, card.tab), 'compare'));
        menu.before = before;
        document.body.append(menu);
        const box = menu.getBoundingClientRect();
        menu.style.left = `${Math.max(4, Math.min(x, innerWidth - box.width - 4))}px`;
        menu.style.top = `${Math.max(4, Math.min(y, innerHeight - box.height - 4))}px`;
        menu.querySelector('button').focus({preventScroll: true});
        const mine = menu;
        fillMenu(mine, card);
        start().then(() => readLibrary()).then(() => fillMenu(mine, card)).catch(complain);
    }

    function menuItem(text, work, key) {
        return el('button', {type: 'button', role: 'menuitem', 'data-key': key, on: {click: () => { if (!menu.querySelector(`[data-key="${key}"][aria-disabled=true]`) || !key) { closeMenu(); work(); } }}}, el('span', null, text), el('span', {class: 'resize-lora-quiet'}));
    }

    /* Sizes and reasons, in places that were there before. */
    function fillMenu(box, card) {
        const file = state.files.get(card.name), item = key => box.querySelector(`[data-key="${key}"]`);
        const disable = (key, reason) => {
            item(key).setAttribute('aria-disabled', String(Boolean(reason)));
            item(key).title = reason || '';
        };
        for (const name of PRESETS) {
            const bytes = file && file.predicted && file.predicted[name];
            say(item(name).lastChild, bytes ? `≈ ${size(bytes)}` : '');
            disable(name, file && file.problem);
        }
        disable('compare', whyNotCompared(file && file.ours));
    }

    function whyNotCompared(made) {
        if (!can('generate')) return t('There is nothing here that makes pictures.');
        if (!made) return t('This file was not made by Resize LoRA.');
        return made.there ? '' : t('The original, {name}, is not there.', {name: made.source});
    }

    function closeMenu() {
        if (!menu) return;
        const {before} = menu, inside = menu.contains(document.activeElement);
        menu.remove();
        menu = null;
        if (inside && before && before.isConnected) before.focus({preventScroll: true});
    }

    function menuKey(event) {
        const items = [...menu.querySelectorAll('button')], at = items.indexOf(document.activeElement);
        const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1}[event.key];
        if (event.key === 'Tab') closeMenu();
        else if (to === undefined) return;
        else items[(to + items.length) % items.length].focus();
        event.preventDefault();
    }

    async function resizeNow(card, preset, again) {
        const note = toast(`${card.name}: ${t('queued')}`, {stays: true});
        try {
            await start();
            const options = changedOptions((state.hello.defaults || {}).options || {});
            const more = {...(Object.keys(options).length ? {options} : {}), ...(again ? {again} : {})};
            const answer = await call('resize', {names: [card.name], target: {preset}, ...more});
            takeCardOrder(card, preset, answer, note);
        } catch (error) {
            note.say(`${card.name}: ${error.message}`);
            note.leave();
        }
    }

    function takeCardOrder(card, preset, answer, note) {
        if (answer.refused.length) throw new Error(answer.refused[0].message);
        if (answer.jobs.length) {
            follow(answer.jobs[0], note);
            return;
        }
        note.say(sameText(answer.same));
        note.offer(button(t('Resize again'), () => {
            note.close();
            resizeNow(card, preset, true);
        }));
        note.leave();
    }

    async function openInTab(name) {
        openTab('tab_resize_lora');
        try {
            await start();
            await readLibrary();
            if (!state.files.has(name)) await readLibrary(true);
        } catch (error) {
            complain(error);
            return;
        }
        if (!state.files.has(name)) {
            toast(t('{name} is not in the list of LoRAs.', {name}), {bad: true});
            return;
        }
        if (!state.shown.some(file => file.name === name)) clearFilter();
        state.selected = new Set([name]);
        state.leftOut = 0;
        putCursor(Math.max(0, state.shown.findIndex(file => file.name === name)));
        choose(name);
        drawLibrary();
        bringIntoView(state.cursor);
    }

    function clearFilter() {
        find('resize_lora_search').value = parts.family.value = '';
        parts.fits.checked = false;
        setFilter({text: '', family: '', fits: false});
    }

    // Looking inside: what a LoRA is made of ----------------------------------------------------------------------

    const study = {result: null, job: null, key: ''};
    const STUDY_WORDS = {
        'all': 'all layers', 'time embedding': 'time embedding', 'cross-attention': 'cross-attention',
        'self-attention': 'self-attention', 'high-level blocks': 'high-level blocks', 'convolutions': 'convolutions',
        'attention K': 'attention K', 'attention Q': 'attention Q', 'text encoders': 'text encoders',
    };
    const DASHES = ['', '7 3', '2 3', '9 3 2 3', '1 2', '12 4', '5 2 1 2 1 2', '3 6', '14 3 3 3', '6 6'];

    function frameStudy() {
        parts.studyRun = button(t('Analyse'), askStudy, {id: 'resize_lora_look'});
        parts.studyTitle = el('span', {class: 'resize-lora-quiet resize-lora-cut'});
        parts.studyBody = el('div', {id: 'resize_lora_study_body', class: 'resize-lora-study-body', hidden: true});
        parts.study.append(
            el('div', {class: 'resize-lora-results-head'}, el('strong', null, t('Look inside')), parts.studyTitle, parts.studyRun),
            parts.studyBody,
        );
        new ResizeObserver(later(drawStudy, 120)).observe(parts.studyBody);
        drawStudyHead();
    }

    function drawStudyHead() {
        if (!parts.studyRun) return;
        const file = state.files.get(state.current);
        const idle = study.result ? study.result.name : t('Where its dimensions are, what they hold, and where the bytes go.');
        parts.studyRun.disabled = !file || Boolean(file.problem) || Boolean(study.job);
        say(parts.studyTitle, study.job ? t('analysing…') : idle);
    }

    async function askStudy() {
        try {
            const {job} = await call('spectra', {name: state.current});
            study.job = job;
            own([job]);
            drawStudyHead();
            poll();
        } catch (error) {
            complain(error);
        }
    }

    function endStudy(job) {
        if (job.id !== study.job) return;
        study.job = null;
        if (job.state === 'done' && job.result) study.result = job.result;
        if (job.state === 'failed' && job.error) complain(job.error);
        study.key = '';
        drawStudyHead();
        show(parts.studyBody, Boolean(study.result));
        drawStudy();
    }

    function drawStudy() {
        const result = study.result, width = parts.studyBody.clientWidth - 24;
        const key = result ? `${result.name} ${width}` : '';
        if (!result || width <= 0 || study.key === key) return;
        study.key = key;
        parts.studyBody.replaceChildren(
            studyPart(t('Mean singular values, the largest of each layer = 1'), spectraPicture(result)),
            studyPart(t('Effective rank by block and by what layers do'), heatPicture(result, width)),
            studyPart(t('Retention against size, for every way of choosing'), curvesPicture(result, width)),
            studyPart(t('Where the bytes are'), bytesPicture(result, width)),
        );
    }

    function studyPart(title, ...content) {
        return el('figure', {class: 'resize-lora-figure'}, el('figcaption', null, title), content);
    }

    /* One small picture for each group of layers: its spectrum, and a dashed line at its effective rank. */
    function spectraPicture({groups}) {
        return el('div', {class: 'resize-lora-spectra'}, groups.map(group => {
            const name = t(STUDY_WORDS[group.name] || group.name), wide = 200, high = 96, bottom = 78;
            const x = index => 6 + (wide - 12) * index / Math.max(1, group.spectrum.length - 1);
            const y = value => 6 + (bottom - 6) * (1 - value);
            const line = group.spectrum.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
            const at = x(Math.min(group.spectrum.length, group.effective_rank) - 1);
            const told = t('effective rank {rank}, first holds {share}', {rank: round(group.effective_rank, 1), share: percent(group.top_energy, 0)});
            return el('div', null,
                el('span', null, `${name} (${group.layers})`),
                draw('svg', {viewBox: `0 0 ${wide} ${high}`, role: 'img', 'aria-label': `${name}: ${told}`},
                    draw('line', {x1: 6, x2: wide - 6, y1: bottom, y2: bottom, class: 'resize-lora-grid'}),
                    draw('polygon', {points: `${x(0)},${bottom} ${line} ${x(group.spectrum.length - 1)},${bottom}`, class: 'resize-lora-area'}),
                    draw('polyline', {points: line, class: 'resize-lora-curve'}),
                    draw('line', {x1: at, x2: at, y1: 22, y2: bottom, class: 'resize-lora-source'}),
                    draw('text', {x: 6, y: high - 3}, '1'),
                    draw('text', {x: wide - 6, y: high - 3, 'text-anchor': 'end'}, String(group.spectrum.length))),
                el('span', {class: 'resize-lora-quiet'}, told));
        }));
    }

    /* A table of tinted cells: the stronger the tint, the larger the number that stands in it. */
    function heatPicture({blocks, types, effective_rank: cellRanks, layers}, width) {
        const left = 58, top = 74, row = 21, column = Math.min(84, (Math.max(width, 480) - left) / types.length);
        const values = cellRanks.flat().filter(value => value != null);
        const most = Math.max(...values, 1e-9), least = Math.min(...values, most);
        const tint = value => 4 + 56 * (value - least) / Math.max(most / 10, most - least);  // equal ranks look equal
        const cells = cellRanks.flatMap((line, i) => line.map((value, j) => value == null ? null : draw('g', null,
            draw('title', null, t('{block}, {type}: effective rank {rank} in {count} layers', {block: blocks[i], type: t(types[j]), rank: round(value, 1), count: layers[i][j]})),
            draw('rect', {x: left + j * column, y: top + i * row, width: column - 1, height: row - 1, class: 'resize-lora-cell', style: `--resize-lora-share: ${tint(value).toFixed(0)}%`}),
            draw('text', {x: left + (j + 0.5) * column, y: top + i * row + 15, 'text-anchor': 'middle', class: 'resize-lora-number'}, column > 30 ? String(round(value, 1)) : ''))));
        const heads = types.map((type, j) => draw('text', {transform: `translate(${left + (j + 0.5) * column} ${top - 8}) rotate(-38)`}, t(type)));
        const names = blocks.map((block, i) => draw('text', {x: left - 6, y: top + i * row + 15, 'text-anchor': 'end'}, block));
        return el('div', {class: 'resize-lora-wide', tabindex: '0'}, draw('svg', {
            width: left + types.length * column + 34, height: top + blocks.length * row + 4, role: 'img',
            'aria-label': t('Effective rank by block and by what layers do'),
        }, heads, names, cells));
    }

    /* One line a method, told apart by dashes; the one under the pointer or the keyboard stands out. */
    function curvesPicture({curves}, width) {
        const high = 250, left = 46, right = 12, top = 8, bottom = 30;
        const points = curves.flatMap(curve => curve.points);
        if (!points.length) return el('p', {class: 'resize-lora-quiet'}, t('All its layers are zero.'));
        const most = Math.max(...points.map(point => point[0])), least = Math.min(...points.map(point => point[1]));
        const x = bytes => left + (width - left - right) * bytes / most;
        const y = kept => top + (high - top - bottom) * (1 - kept) / Math.max(1e-6, 1 - least);
        const lines = curves.map((curve, i) => draw('polyline', {
            points: curve.points.map(point => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(' '),
            class: 'resize-lora-method', 'stroke-dasharray': DASHES[i % DASHES.length],
        }));
        const mark = at => lines.forEach((line, i) => line.classList.toggle('resize-lora-marked', i === at));
        mark(0);
        const legend = curves.map((curve, i) => el('button', {
            type: 'button', class: 'resize-lora-legend',
            on: {pointerenter: () => mark(i), focus: () => mark(i), click: () => mark(i)},
        }, draw('svg', {width: 34, height: 10, 'aria-hidden': 'true'}, draw('line', {x1: 1, x2: 33, y1: 5, y2: 5, class: 'resize-lora-method', 'stroke-dasharray': DASHES[i % DASHES.length]})), curve.name));
        return [draw('svg', {width, height: high, role: 'img', 'aria-label': t('Retention against size, for every way of choosing')},
            curveAxes({width, high, left, right, top, bottom, most, least, x, y}), lines), el('div', {class: 'resize-lora-legends'}, legend)];
    }

    function curveAxes({width, high, left, right, bottom, most, least, x, y}) {
        const made = [], step = niceStep((1 - least) / 4), stride = niceStep(most / MIB / 5);
        for (let kept = 1; kept >= least - 1e-9; kept -= step) {
            made.push(draw('line', {x1: left, x2: width - right, y1: y(kept), y2: y(kept), class: 'resize-lora-grid'}));
            made.push(draw('text', {x: left - 6, y: y(kept) + 4, 'text-anchor': 'end'}, `${round(100 * kept, 1)}%`));
        }
        for (let value = 0; x(value * MIB) < width - right - 34; value += stride) {
            made.push(draw('text', {x: x(value * MIB), y: high - bottom + 18, 'text-anchor': 'middle'}, String(round(value, 2))));
        }
        made.push(draw('text', {x: width - right, y: high - bottom + 18, 'text-anchor': 'end'}, 'MB'));
        return made;
    }

    /* Two lists of bars: by block, and by what layers do. */
    function bytesPicture({blocks, types, bytes}, width) {
        const byBlock = blocks.map((block, i) => [block, bytes[i].reduce((all, one) => all + one, 0)]);
        const byType = types.map((type, j) => [t(type), bytes.reduce((all, line) => all + line[j], 0)]);
        const wide = width > 640 ? (width - 24) / 2 : width;
        return el('div', {class: 'resize-lora-pair'}, [byBlock, byType].map(rows => barList(rows, wide)));
    }

    function barList(rows, width) {
        const left = 108, right = 74, row = 20, most = Math.max(...rows.map(([, value]) => value), 1);
        return draw('svg', {width, height: rows.length * row + 4, role: 'img', 'aria-label': t('Where the bytes are')}, rows.map(([name, value], i) => {
            const long = (width - left - right) * value / most;
            return draw('g', null,
                draw('text', {x: left - 6, y: i * row + 15, 'text-anchor': 'end'}, name),
                draw('rect', {x: left, y: i * row + 4, width: Math.max(1, long), height: row - 6, class: 'resize-lora-bytes'}),
                draw('text', {x: left + long + 6, y: i * row + 15}, size(value)));
        }));
    }

    // Start -------------------------------------------------------------------------------------------------------

    function onKey(event) {
        if (event.isComposing || event.defaultPrevented) return;
        if (event.key === 'Escape' && menu) {
            closeMenu();
            event.stopPropagation();
            return;
        }
        if (parts.run && root.offsetParent && !isCovered()) onPanelKey(event);
    }

    /* A host's page presses the run button at Ctrl+Enter by itself; at Esc it would press only a button of its own. */
    function onPanelKey(event) {
        if (event.key === 'Escape' && !hasOtherUseForEscape(event.composedPath()[0])) cancelOwn();
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !window.get_uiCurrentTabContent) parts.run.click();
    }

    /* A dialog or a menu, ours or the host's, is over the panel. */
    function isCovered() {
        const popup = document.querySelector('.global-popup');
        return Boolean(document.querySelector('dialog[open], #context-menu')) || Boolean(popup && popup.style.display !== 'none');
    }

    /* In a field Esc gives up what was typed, in a list or a menu what is open; jobs are not meant. */
    function hasOtherUseForEscape(element) {
        const field = 'input:not([type="checkbox"], [type="radio"], [type="range"]), textarea, select, [contenteditable=""], [contenteditable="true"]';
        return Boolean(element.closest && element.closest(`${field}, [role="dialog"], [role="menu"]`));
    }

    /* The panel stands next to Gradio's own block, where neither its styles nor its updates reach it. True once it is there. */
    function mount() {
        const place = find('resize_lora_app');
        if (root && root.isConnected) return true;
        if (!place || !app().querySelector('#resize_lora_reply textarea')) return false;
        if (!root) {
            root = el('div', {id: 'resize_lora_root', class: 'resize-lora'}, el('p', {class: 'resize-lora-quiet'}, t('Reading…')));
            new IntersectionObserver(seen => {
                if (seen.some(one => one.isIntersecting)) look();
                else mountSoon();
            }).observe(root);
        }
        place.after(root);
        place.classList.add('resize-lora-ready');
        return true;
    }

    /* Until the page has a place for the panel; hosts say when, and may take it away again. */
    function mountSoon() {
        if (!mount()) setTimeout(mountSoon, 400);
    }

    /* The tab came into view: what the host holds may have changed meanwhile. */
    function look() {
        start().then(poll).catch(error => root.replaceChildren(
            el('p', {class: 'resize-lora-fault', role: 'alert'}, error.message), button(t('Try again'), look)));
    }

    document.addEventListener('contextmenu', onContextMenu, true);
    document.addEventListener('keydown', onKey, true);
    document.addEventListener('pointerdown', event => { if (menu && !menu.contains(event.target)) closeMenu(); }, true);
    for (const moved of ['wheel', 'touchmove']) {
        document.addEventListener(moved, event => { if (menu && !menu.contains(event.target)) closeMenu(); }, {capture: true, passive: true});
    }
    window.addEventListener('blur', closeMenu);
    if (typeof window.onUiLoaded === 'function') window.onUiLoaded(mount);
    mountSoon();
})();
