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
        const places = value < 10 ? 2 : value < 100 ? 1 : 0;
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

    function percent(share, places = 1) {
        return share == null ? '–' : `${(100 * share).toFixed(places)} %`;
    }

    function saving(before, after) {
        const share = 1 - after / before;
        const rounded = Math.abs(100 * share).toFixed(0);
        return `${rounded === '0' ? '' : share >= 0 ? '−' : '+'}${rounded} %`;
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

    const PATIENCE = 60000;
    let nextCall = Math.floor(Math.random() * 1e9);
    let lastCall = Promise.resolve();

    /* One call after the other: request and reply are one box each. */
    function call(method, params) {
        const answer = lastCall.then(() => exchange(method, params || {}));
        lastCall = answer.catch(() => undefined);
        return answer;
    }

    function exchange(method, params) {
        const id = ++nextCall;
        const request = app().querySelector('#resize_lora_request textarea');
        const send = app().querySelector('#resize_lora_send');
        if (!request || !send) return Promise.reject(new Error(t('The panel is not there yet.')));
        request.value = JSON.stringify({id, method, params});
        request.dispatchEvent(new Event('input', {bubbles: true}));
        return new Promise((resolve, reject) => {
            setTimeout(() => send.click(), 0);
            awaitReply(id, Date.now() + PATIENCE, '', resolve, reject);
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
        else if (Date.now() > deadline) reject(new Error(t('The server does not answer.')));
        else setTimeout(awaitReply, 15, id, deadline, text, resolve, reject);
    }

    function parsed(text) {
        try {
            return JSON.parse(text);
        } catch (error) {
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
        files: new Map(),
        shown: [],
        library: {revision: null, complete: false, known: 0, total: 0, roots: []},
        filter: {text: '', family: '', fits: false, sort: 'bytes', down: true},
        selected: new Set(),
        current: null,
        cursor: 0,
        analyses: new Map(),
        analysing: new Map(),
        target: {mode: 'preset', preset: 'medium', size: 50, retention: 0.92, rank: 16, recipe: ''},
        meaning: 'size',
        options: {...DEFAULTS},
        without: true,
        plan: null,
        trouble: '',
        jobs: new Map(),
        revision: null,
        mine: new Set(),
        results: [],
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

    /* The point of a sorted table that a wish means: the largest file below it, or the smallest that keeps so much. */
    function pointFor(points, target) {
        if (target.mode === 'size') {
            let at = 0;
            points.forEach((point, i) => { if (point.bytes <= target.size * MIB * 1.0005) at = i; });
            return at;
        }
        const at = points.findIndex(point => point.retention >= target.retention - 1e-9);
        return at < 0 ? points.length - 1 : at;
    }

    /* Size, retention and ranks of the present choice, as far as the page knows them: {bytes, retention, ranks, ...}. */
    function estimate() {
        const known = analysis(), target = state.target;
        if (!known) return null;
        const plan = state.plan;
        if (plan && plan.key === planKey()) return {...plan.result, bytes: plan.result.bytes_after, exact: true};
        if (target.mode === 'preset' && plainOptions()) {
            const preset = known.presets[target.preset];
            return preset && {...preset, blocks: blocksAt(known, target.preset)};
        }
        const points = table();
        return points && (target.mode === 'size' || target.mode === 'retention') ? points[pointFor(points, target)] : null;
    }

    function blocksAt(known, preset) {
        const blocks = {};
        for (const [name, block] of Object.entries(known.blocks)) blocks[name] = {old: block.old, kept: block.kept[preset]};
        return blocks;
    }

    function planKey() {
        return JSON.stringify([state.current, wanted(), changedOptions()]);
    }

    /* What will be written, in bytes, of a file in the list; null where that is not known. */
    function expected(file) {
        const {mode, preset} = state.target;
        if (file.name === state.current) {
            const now = estimate();
            if (now) return now.bytes;
        }
        if (mode === 'preset' && plainOptions()) return file.predicted ? file.predicted[preset] : null;
        const known = state.analyses.get(file.name);
        if (!known || !known.table || !plainOptions() || !['size', 'retention'].includes(mode)) return null;
        return known.table[pointFor(known.table, state.target)].bytes;
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
        state.hello = await call('hello');
        state.reference = state.hello.reference;
        takeDefaults(state.hello.defaults);
        drawFrame();
        const [results] = await Promise.all([call('results'), readLibrary(), poll()]);
        takeResults(results);
    }

    /* What the person set on the host's settings page. */
    function takeDefaults(defaults) {
        if (!defaults) return;
        Object.assign(state.options, defaults.options);
        state.target.preset = defaults.preset;
        defaults.notes.forEach(note => toast(note));
    }

    let reading = null;

    function readLibrary(refresh) {
        reading = reading || readAll(refresh).finally(() => { reading = null; });
        return reading;
    }

    async function readAll(refresh) {
        const library = state.library;
        do {
            const params = library.revision == null ? {} : {since: library.revision};
            const answer = await call('library', refresh ? {...params, refresh: true} : params);
            refresh = false;
            answer.gone.forEach(forget);
            answer.files.forEach(remember);
            Object.assign(library, {
                revision: answer.revision, complete: answer.complete, known: answer.known, total: answer.total,
                roots: answer.roots,
            });
            drawLibrary();
            if (!answer.complete) await pause(250);
        } while (!library.complete);
    }

    function remember(file) {
        const before = state.files.get(file.name);
        if (before && (before.modified !== file.modified || before.bytes !== file.bytes)) {
            state.analyses.delete(file.name);
            previews.delete(file.name);
        }
        state.files.set(file.name, file);
    }

    function forget(name) {
        [state.files, state.selected, state.analyses].forEach(place => place.delete(name));
        if (state.current === name) state.current = null;
    }

    function pause(wait) {
        return new Promise(resolve => setTimeout(resolve, wait));
    }

    let polling = false;

    /* Follows the jobs while there are any. */
    async function poll() {
        if (polling) return;
        polling = true;
        try {
            for (let active = 1; active > 0;) {
                const status = await call('status', state.revision == null ? {} : {since: state.revision});
                takeStatus(status);
                active = status.active;
                if (active) await pause(400);
            }
        } catch (error) {
            complain(error);
        } finally {
            polling = false;
        }
    }

    function takeStatus(status) {
        const first = state.revision == null;
        state.revision = status.revision;
        state.reference = status.reference;
        state.busy = status.busy;
        status.queue.forEach(job => takeJob(job, first));
        if (state.library.complete && status.library > state.library.revision) readLibrary().catch(complain);
        drawReference();
        drawQueue();
        drawActions();
    }

    const ENDED = ['done', 'failed', 'cancelled'];

    function takeJob(job, old) {
        const before = state.jobs.get(job.id);
        state.jobs.set(job.id, job);
        const toast = jobToasts.get(job.id);
        if (toast) followWithToast(job, toast);
        if (!ENDED.includes(job.state) || (before && ENDED.includes(before.state))) return;
        if (job.kind === 'analyse') endAnalysis(job);
        else if (job.kind === 'spectra') endStudy(job);
        else if (job.state === 'done' && !old) endWork(job);
    }

    function endAnalysis(job) {
        for (const [name, id] of state.analysing) if (id === job.id) state.analysing.delete(name);
        for (const found of job.result ? job.result.files : []) {
            const known = state.analyses.get(found.name);
            state.analyses.set(found.name, found.table || !known ? found : known);
        }
        const failed = job.result && job.result.failed.find(one => one.name === state.current);
        if (job.state === 'failed' && job.error && state.mine.has(job.id)) state.trouble = job.error.message;
        if (failed) state.trouble = failed.message;
        if (state.waitingForPlan === job.id && job.state === 'done') askPlan();
        drawTarget();
        drawLibrary();
    }

    function endWork(job) {
        if (job.kind === 'compare') {
            if (state.mine.has(job.id)) openComparison(job.result);
            return;
        }
        const at = state.results.findIndex(one => one.result === job.result.result);
        if (at < 0) state.results.push(job.result);
        else state.results[at] = job.result;
        drawResults();
        refreshCards();
    }

    function takeResults(answer) {
        state.results = answer.results;
        state.trash = answer.trash;
        drawResults();
    }

    /* Makes a LoRA the one that the target speaks of, and has it decomposed if it was not. */
    function choose(name) {
        if (name === state.current) return;
        const leaving = state.analysing.get(state.current);
        state.current = name;
        state.plan = null;
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
            state.mine.add(job);
            if (recipe) state.waitingForPlan = job;
            drawTarget();
            poll();
        } catch (error) {
            complain(error);
        }
    }

    let planning = false;

    /* Asks for the exact figures of the present choice; where it changes meanwhile, asks again. */
    async function askPlan() {
        if (planning || !analysis() || (state.target.mode === 'recipe' && !state.recipeIsGood)) return;
        planning = true;
        try {
            for (let key = ''; state.current && key !== planKey();) {
                key = planKey();
                await plan(key);
            }
        } finally {
            planning = false;
        }
        drawTarget();
        drawTotals();
    }

    async function plan(key) {
        try {
            const result = await call('plan', {name: state.current, ...wanted(), options: changedOptions()});
            state.plan = {key, result};
            state.trouble = state.analysedFor = '';
        } catch (error) {
            if (error.kind === 'not_analysed' && state.analysedFor !== key) {
                state.analysedFor = key;
                await analyse([state.current], wantedText());
            } else state.trouble = error.message;
        }
        drawTarget();
    }

    const askPlanSoon = later(askPlan, 60);

    async function run() {
        const names = chosenNames();
        if (!names.length) return;
        try {
            const answer = await call('resize', {names, ...wanted(), options: changedOptions()});
            answer.jobs.forEach(job => state.mine.add(job));
            answer.refused.forEach(one => toast(`${one.name}: ${one.message}`, {bad: true}));
        } catch (error) {
            complain(error);
        }
        await poll();
    }

    function chosenNames() {
        if (state.selected.size) return [...state.selected];
        return state.current ? [state.current] : [];
    }

    function activeJobs() {
        return [...state.jobs.values()].filter(job => !ENDED.includes(job.state));
    }

    /* Stops what this page began, or where it was loaded anew, all that goes on. */
    function cancelAll() {
        const active = activeJobs().map(job => job.id), mine = active.filter(id => state.mine.has(id));
        cancel(mine.length ? mine : active);
    }

    async function cancel(jobs) {
        if (!jobs.length) return;
        try {
            await call('cancel', {jobs});
            await poll();
        } catch (error) {
            if (error.kind !== 'gone') complain(error);
        }
    }

    function complain(error) {
        toast(error.message || String(error), {bad: true});
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
            memory: t('in memory, read in place'), file: t('read from its file'), none: t('No checkpoint is loaded.'),
        };
        const kind = chosen === 'loaded' ? reference.kind : chosen === 'none' ? 'none' : 'file';
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
        const again = button(t('Refresh'), () => readLibrary(true).catch(complain), {id: 'resize_lora_refresh'});
        parts.library.append(
            el('div', {class: 'resize-lora-tools'}, search, parts.family,
                el('label', {class: 'resize-lora-check', title: t('Only LoRAs of the family of the loaded checkpoint')}, parts.fits, t('Fits loaded')),
                el('label', {class: 'resize-lora-narrow'}, parts.sort), again),
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
        list.box.scrollTop = 0;
        drawLibrary();
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
        parts.more = button(t('Analyse'), () => analyse(unknownNames()), {id: 'resize_lora_analyse', title: t('Find out what a resize of the selected LoRAs would save')});
        parts.clear = button(t('Select none'), () => selectAll(false), {id: 'resize_lora_none'});
        return el('div', {class: 'resize-lora-foot'}, el('span', {'aria-live': 'polite'}, parts.counts, parts.totals), parts.more, parts.clear);
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
        state.shown = matching();
        drawFamilies();
        drawHeads();
        list.space.style.height = `${state.shown.length * list.height}px`;
        say(list.empty, emptyText());
        show(list.empty, state.shown.length === 0);
        drawRows();
        drawTotals();
        drawActions();
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
            head.dataset.order = here ? (state.filter.down ? 'down' : 'up') : '';
            head.setAttribute('aria-pressed', String(here));
        }
    }

    /* Only the rows in view are in the page; they are filled anew, not made anew. */
    function drawRows() {
        const {box, height, rows} = list;
        if (!box.clientHeight) return;
        const first = Math.max(0, Math.floor(box.scrollTop / height) - 3);
        const count = Math.min(state.shown.length - first, Math.ceil(box.clientHeight / height) + 7);
        while (rows.length < count) rows.push(list.space.appendChild(makeRow()));
        rows.forEach((row, i) => {
            show(row, i < count);
            if (i < count) fillRow(row, state.shown[first + i], first + i);
        });
        askPreviews(rows.slice(0, Math.max(0, count)));
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
            family: cell('family'), kind: cell('kind'), rank: cell('rank'), dtype: cell('dtype'),
            bytes: cell('bytes'), after: cell('after'),
        };
        const {tick, picture, title, folder, ...cells} = row.parts;
        row.append(tick, picture, el('span', {class: 'resize-lora-col-name'}, title, folder), ...Object.values(cells));
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
        row.title = file.problem || '';
        say(cells.title, file.name);
        say(cells.folder, folderText(file));
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
        if (event.shiftKey) selectRange(state.cursor, index);
        else if (event.ctrlKey || event.metaKey || event.target.closest('.resize-lora-tick')) toggle(index);
        else selectOnly(index);
        state.cursor = index;
        choose(row.dataset.name);
        drawLibrary();
    }

    function toggle(index) {
        const {name} = state.shown[index];
        if (!state.selected.delete(name)) state.selected.add(name);
    }

    function selectOnly(index) {
        state.selected = new Set([state.shown[index].name]);
    }

    function selectRange(from, to) {
        for (let i = Math.min(from, to); i <= Math.max(from, to); i++) state.selected.add(state.shown[i].name);
    }

    function selectAll(on) {
        state.selected = new Set(on ? state.shown.filter(file => !file.problem).map(file => file.name) : []);
        if (on && !state.current && state.shown.length) choose(state.shown[0].name);
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
        state.cursor = Math.min(last, Math.max(0, before + step));
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
        say(parts.counts, `${t('{n} files', {n: files.length.toLocaleString('en-US')})} · ${size(sum(files, 'bytes'))}${known}`);
        say(parts.totals, chosen.length ? ` · ${t('{n} selected', {n: chosen.length.toLocaleString('en-US')})}, ${totalText(chosen)}` : '');
        const unknown = unknownNames().length;
        show(parts.more, unknown > 0 && chosen.length > 1);
        say(parts.more, t('Analyse {n}', {n: unknown}));
        show(parts.clear, chosen.length > 0);
        const able = state.shown.filter(file => !file.problem).length;
        const here = state.shown.filter(file => !file.problem && state.selected.has(file.name)).length;
        parts.all.checked = able > 0 && here === able;
        parts.all.indeterminate = here > 0 && here < able;
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
        parts.number = el('input', {type: 'number', id: 'resize_lora_number', step: 'any', 'aria-label': t('Target'), on: {change: typeNumber}});
        parts.unit = el('span', {class: 'resize-lora-quiet resize-lora-unit'});
        return el('div', {class: 'resize-lora-slider'}, parts.meaning, parts.slider, el('span', {class: 'resize-lora-number'}, parts.number, parts.unit));
    }

    function frameFigures() {
        const figure = (name, text, hint) => {
            parts[name] = el('span', {class: 'resize-lora-figure', id: `resize_lora_${name}`}, '–');
            return el('div', {title: hint}, el('span', {class: 'resize-lora-quiet'}, t(text)), parts[name]);
        };
        return el('div', {class: 'resize-lora-figures', role: 'status'},
            figure('figureSize', 'Size'), figure('figureSaved', 'Saved'),
            figure('figureRetention', 'Weight retention', t("Share of the whole LoRA's Frobenius norm that stays")),
            figure('figureRanks', 'Ranks'), figure('figureGone', 'Layers that fall away'));
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

    const typeRecipe = (() => {
        const check = later(async () => {
            const text = parts.recipe.value.trim();
            const answer = text ? await call('check_recipe', {text}).catch(error => ({ok: false, message: error.message, column: 0})) : {ok: false, message: '', column: 0};
            if (text !== state.target.recipe) return;
            state.recipeIsGood = answer.ok;
            showFault(text, answer);
            drawTarget();
            if (answer.ok) askPlan();
        }, 150);
        return () => {
            state.recipeIsGood = false;
            state.target = {...state.target, mode: 'recipe', recipe: parts.recipe.value.trim()};
            drawTarget();
            check();
        };
    })();

    function showFault(text, answer) {
        parts.recipe.setAttribute('aria-invalid', String(!answer.ok));
        const place = answer.column ? `${text.slice(0, answer.column - 1)}▸${text.slice(answer.column - 1)}` : '';
        parts.fault.replaceChildren(...(answer.ok ? [] : [el('code', null, place), ` ${answer.message}`]));
    }

    /* A new target, that did not come from the recipe box. */
    function setTarget(change, dragging) {
        state.target = {...state.target, ...change};
        if (state.target.mode in UNITS) state.meaning = state.target.mode;
        parts.recipe.removeAttribute('aria-invalid');
        parts.fault.replaceChildren();
        drawTarget();
        drawRows();
        drawTotals();
        if (dragging && table() && state.target.mode !== 'rank') return;
        askPlanSoon();
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

    function typeNumber() {
        const value = Number(parts.number.value);
        const most = {size: 1e6, retention: 100, rank: 1e5}[state.meaning];
        if (!(value > 0 && value <= most)) {
            drawTarget();
            return;
        }
        const exact = {size: value, retention: value / 100, rank: Math.max(1, Math.round(value))}[state.meaning];
        setTarget({mode: state.meaning, [state.meaning]: exact});
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
        const many = state.selected.size > 1 ? t('and {n} more', {n: state.selected.size - Number(state.selected.has(state.current))}) : '';
        say(parts.subject, file ? file.name : t('Choose a LoRA.'));
        const job = state.jobs.get(state.analysing.get(state.current));
        const going = job && job.total ? `${t('analysing…')} ${job.done} / ${job.total}` : state.analysing.has(state.current) ? t('analysing…') : '';
        say(parts.subjectNote, file ? [many, going].filter(Boolean).join(' · ') : '');
        show(parts.stop, Boolean(going));
    }

    function drawPresets(file) {
        const known = analysis();
        for (const name of PRESETS) {
            const {radio, bytes} = parts.presets[name];
            const preset = plainOptions() && (known ? known.presets[name] && known.presets[name].bytes : file && file.predicted && file.predicted[name]);
            radio.checked = state.target.mode === 'preset' && state.target.preset === name;
            say(bytes, preset ? size(preset) : '–');
        }
    }

    function drawSlider(now) {
        const points = table(), {target, meaning} = state, {slider} = parts;
        parts.meaning.value = meaning;
        const most = meaning === 'rank' ? (analysis() ? analysis().ranks[2] : 128) : points ? points.length - 1 : 200;
        slider.min = meaning === 'rank' ? '1' : '0';
        if (slider.max !== String(most)) slider.max = String(most);
        slider.disabled = meaning !== 'rank' && !points;
        const value = target.mode === meaning ? target[meaning] : now ? {size: now.bytes / MIB, retention: now.retention, rank: now.ranks[2]}[meaning] : null;
        const at = meaning === 'rank' ? value : points && value != null ? pointFor(points, {mode: meaning, [meaning]: value}) : 0;
        if (at != null && Number(slider.value) !== at) slider.value = String(at);
        slider.setAttribute('aria-valuetext', value == null ? '' : numberText(meaning, value));
        say(parts.unit, UNITS[meaning]);
        if (document.activeElement === parts.number) return;
        const text = value == null ? '' : String(meaning === 'retention' ? round(100 * value, 2) : round(value, 2));
        if (parts.number.value !== text) parts.number.value = text;
    }

    function numberText(meaning, value) {
        return {size: `${digits(value)} MB`, retention: percent(value), rank: String(value)}[meaning];
    }

    function drawFigures(file, now) {
        const before = file && file.bytes, old = now && (now.ranks_before || (analysis() || {}).ranks);
        say(parts.figureSize, now ? sizes(before, now.bytes) : file ? size(before) : '–');
        say(parts.figureSaved, now ? saving(before, now.bytes) : '–');
        say(parts.figureRetention, now ? percent(now.retention) : '–');
        say(parts.figureRanks, now && old ? `${ranks(old)} → ${ranks(now.ranks)}` : '–');
        say(parts.figureGone, now ? String(now.layers_gone) : '–');
        parts.figureSize.parentElement.parentElement.classList.toggle('resize-lora-guess', Boolean(now && !now.exact));
    }

    function drawWarnings(file, now) {
        const told = warnings(file, now).map(text => el('li', null, text));
        const same = told.map(item => item.textContent).join('\n') === [...parts.warnings.children].map(item => item.textContent).join('\n');
        if (!same) parts.warnings.replaceChildren(...told);
    }

    /* Said before anything is written: what the server found, and what the page sees while dragging. */
    function warnings(file, now) {
        const texts = [], known = analysis();
        if (!file) return texts;
        if (file.problem) texts.push(file.problem);
        if (state.trouble) texts.push(state.trouble);
        const plan = now && now.exact ? now : null;
        const found = (plan || known || {warnings: []}).warnings;
        found.forEach(one => texts.push(one.template ? t(one.template, one.values) : one.text));
        if (plan) plan.notes.forEach(note => texts.push(note));
        if (now && !plan && now.bytes >= file.bytes && !found.some(one => one.kind === 'not_smaller')) texts.push(t('The new file would not be smaller.'));
        if (now && !plan && now.retention < state.hello.floor && !found.some(one => one.kind === 'low_retention')) {
            texts.push(t('Weight retention is under {floor}: expect a visible difference.', {floor: percent(state.hello.floor, 0)}));
        }
        return [...new Set(texts)];
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
        const scale = plotScale(), key = JSON.stringify([state.current, scale && scale.width, Boolean(scale), planKey(), estimate()]);
        if (parts.plotKey === key) return;
        parts.plotKey = key;
        if (!scale) {
            parts.plot.replaceChildren(el('p', {class: 'resize-lora-quiet resize-lora-empty'}, plotText()));
            return;
        }
        const now = estimate();
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
       the foot stays above the axis' figures, and one that would stand in the choice's figures is left out. */
    function presetNames({known, x, y, width}, now) {
        const places = new Map(), foot = PLOT.height - PLOT.bottom - 2;
        for (const name of PRESETS.filter(name => known.presets[name])) {
            const preset = known.presets[name], at = `${preset.bytes} ${preset.retention}`;
            places.set(at, [...(places.get(at) || []), name]);
        }
        return draw('g', {class: 'resize-lora-preset-names'}, [...places.values()].map(names => {
            const preset = known.presets[names[0]], text = names.map(name => t(PRESET_WORDS[name])).join(', ');
            const left = x(preset.bytes) + 7, top = Math.min(y(preset.retention) + 13, foot);
            return now && meetsChoice({x, width}, now, left, top, text) ? [] : draw('text', {x: left, y: top}, text);
        }));
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
        const now = estimate(), known = analysis(), blocks = now && now.blocks;
        const width = parts.bars.clientWidth, key = JSON.stringify([state.current, width, blocks, known && !blocks]);
        if (parts.barsKey === key) return;
        if (known && now && !blocks && parts.barsOf === state.current) {
            parts.bars.classList.add('resize-lora-stale');
            return;
        }
        parts.barsKey = key;
        parts.barsOf = state.current;
        parts.bars.classList.remove('resize-lora-stale');
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
        parts.cancel = button(t('Cancel'), cancelAll, {id: 'resize_lora_interrupt', title: 'Esc'});
        parts.actions.append(parts.run, bakeButton(), extractButton(), parts.cancel);
    }

    function drawActions() {
        if (!parts.run) return;
        const names = chosenNames().filter(name => (state.files.get(name) || {problem: true}).problem === null);
        const words = names.length === 1 ? t('Resize') : t('Resize {n} LoRAs', {n: names.length.toLocaleString('en-US')});
        say(parts.run, names.length ? (state.busy ? `${words} · ${t('waits for the picture')}` : words) : t('Resize'));
        parts.run.disabled = !names.length || (state.target.mode === 'recipe' && !state.recipeIsGood);
        parts.cancel.disabled = !activeJobs().length;
    }

    function drawQueue() {
        if (!parts.queue) return;
        const jobs = [...state.jobs.values()].filter(job => job.kind !== 'analyse' || job.name !== state.current || job.files > 1)
            .filter(job => !ENDED.includes(job.state) || (job.state === 'failed' && !job.seen && job.kind !== 'analyse'));
        show(parts.queue, jobs.length > 0);
        parts.jobRows = parts.jobRows || new Map();
        for (const [id, row] of parts.jobRows) if (!jobs.some(job => job.id === id)) { row.remove(); parts.jobRows.delete(id); }
        for (const job of jobs.slice(0, 50)) {
            if (!parts.jobRows.has(job.id)) parts.jobRows.set(job.id, parts.queue.appendChild(makeJobRow(job)));
            fillJobRow(parts.jobRows.get(job.id), job);
        }
        drawSubject(state.files.get(state.current));
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
        say(row.parts.text, jobText(job));
        row.classList.toggle('resize-lora-failed', job.state === 'failed');
        row.parts.fill.style.width = `${100 * share}%`;
        row.bar.setAttribute('aria-valuenow', String(Math.round(100 * share)));
        say(row.parts.stop, job.state === 'failed' ? t('Dismiss') : t('Cancel'));
        row.parts.stop.setAttribute('aria-label', `${row.parts.stop.textContent}: ${job.title}`);
    }

    function jobText(job) {
        if (job.state === 'failed') return job.error ? job.error.message : t('failed');
        if (job.state === 'waits') return t('waits for the picture');
        if (job.state === 'queued') return job.place ? t('{n} before it', {n: job.place}) : t('queued');
        const told = [];
        if (job.files > 1) told.push(t('file {n} of {all}', {n: job.file, all: job.files}));
        if (job.total) told.push(t('layer {n} of {all}', {n: job.done, all: job.total}));
        if (job.stage) told.push(t(job.stage));
        if (job.seconds_left != null) told.push(duration(job.seconds_left));
        return told.join(', ');
    }

    function drawResults() {
        if (!parts.results) return;
        const rows = [...state.results].reverse().map(resultRow);
        const tools = [];
        if (rows.length) tools.push(button(t('Save as CSV'), saveCsv, {id: 'resize_lora_csv'}));
        if (state.trash.items) tools.push(...trashTools());
        parts.results.replaceChildren(
            el('div', {class: 'resize-lora-results-head'}, el('strong', null, t('Results')), tools),
            rows.length ? el('div', {role: 'list'}, rows) : el('p', {class: 'resize-lora-quiet'}, t('What you resize is listed here, and can be undone.')),
        );
    }

    function resultRow(result) {
        const there = result.state === 'there';
        const figure = (text, hint) => el('span', {class: 'resize-lora-result-figure', title: hint}, text);
        return el('div', {class: 'resize-lora-result', role: 'listitem', 'data-result': result.result, 'data-state': result.state},
            el('span', {class: 'resize-lora-cut resize-lora-result-name', title: result.recipe}, el('span', {class: 'resize-lora-quiet'}, `${result.name} → `), el('strong', null, result.output)),
            figure(sizes(result.bytes_before, result.bytes_after)), figure(saving(result.bytes_before, result.bytes_after)),
            figure(percent(result.retention), t('Weight retention')),
            el('span', {class: 'resize-lora-result-tools'}, there ? thereTools(result) : awayTools(result)),
            result.notes && result.notes.length ? el('span', {class: 'resize-lora-quiet resize-lora-result-note'}, result.notes.join(' ')) : []);
    }

    function thereTools(result) {
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
            await call(method, what);
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
        const cell = value => /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? '');
        const lines = [columns, ...state.results.map(result => columns.map(column => result[column]))].map(line => line.map(cell).join(','));
        const address = URL.createObjectURL(new Blob([`\ufeff${lines.join('\r\n')}\r\n`], {type: 'text/csv'}));
        download(address, 'resize-lora.csv');
        setTimeout(() => URL.revokeObjectURL(address), 10000);
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
        (find('resize_lora_root') || document.body).after(box);
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
        if (job.state === 'done' && ['resize', 'extract'].includes(job.kind)) offerResult(job.result, note);
        else if (job.state === 'done' && job.kind === 'bake') offerBaked(job.result, note);
        else if (job.state === 'done') note.say(`${job.title}: ${t('done')}`);
        else note.say(`${job.title}: ${job.state === 'cancelled' ? t('cancelled') : job.error.message}`);
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
            const {job} = await call('compare', {...about, settings: pictureSettings(tab || 'txt2img'), without: state.without});
            state.mine.add(job);
            jobToasts.set(job, toast(t('Compare'), {stays: true, tools: [button(t('Cancel'), () => cancel([job]))]}));
            await poll();
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

    function openComparison(result) {
        const picture = (one, text) => el('img', {src: one.picture, alt: `${text}: ${one.name || ''}`});
        const over = el('div', {class: 'resize-lora-over'}, picture(result.original, t('Original')));
        const line = el('div', {class: 'resize-lora-line'});
        const stage = el('div', {class: 'resize-lora-stage'}, picture(result.resized, t('Resized')), over, line,
            el('span', {class: 'resize-lora-tag'}, t('Original')), el('span', {class: 'resize-lora-tag resize-lora-tag-right'}, t('Resized')));
        const others = {difference: result.difference && {picture: result.difference, name: ''}, without: result.without};
        const pages = {slider: stage};
        if (others.difference) pages.difference = el('div', {class: 'resize-lora-stage', hidden: true}, picture(others.difference, t('Difference')));
        if (others.without) pages.without = el('div', {class: 'resize-lora-stage', hidden: true}, picture(others.without, t('Without the LoRA')));
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
        const names = {slider: t('Side by side'), difference: t('Difference'), without: t('Without the LoRA')};
        const view = chooser('resize_lora_view', t('View'), Object.keys(pages).map(key => [key, names[key]]), 'slider', key => {
            Object.entries(pages).forEach(([name, page]) => show(page, name === key));
            show(slider, key === 'slider');
        });
        wipe();
        const save = button(t('Save pictures'), () => savePictures(result), {id: 'resize_lora_save_pictures'});
        dialog(t('Compare'), [Object.values(pages), slider, el('p', null, distance(result)), el('div', {class: 'resize-lora-tools'}, view, save, el('span', {class: 'resize-lora-quiet'}, `${result.resized.name} · seed ${result.seed} · ${result.width}×${result.height}`))]);
        slider.focus();
    }

    function distance(result) {
        const number = t('Mean pixel difference {number} of 255', {number: round(result.number, 2)});
        return result.effect == null ? `${number}.` : `${number}; ${t('without the LoRA {number}', {number: round(result.effect, 2)})}.`;
    }

    /* Nothing is saved unless asked: each picture goes where the browser puts downloads. */
    function savePictures(result) {
        const kinds = {original: result.original, resized: result.resized, difference: {picture: result.difference}, without: result.without};
        Object.entries(kinds).filter(([, one]) => one && one.picture).forEach(([kind, one]) => {
            download(one.picture, `${result.resized.name}_${kind}_${result.seed}.png`);
        });
    }

    // The prompt --------------------------------------------------------------------------------------------------

    const PROMPT_TABS = ['txt2img', 'img2img'];

    async function tryIt(about, generate, tab) {
        try {
            const tag = await call('prompt_tag', about);
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
            await shown(area);
            area.focus();
            area.setSelectionRange(end, end);
            if (generate) find(`${into}_generate`).click();
        } catch (error) {
            complain(error);
        }
    }

    /* A tab that was opened a moment ago is drawn a moment later, and what is not drawn cannot have the cursor. */
    async function shown(element) {
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
        const gap = prompt && !/\s$/.test(prompt) ? (window.opts && window.opts.extra_networks_add_text_separator) || ' ' : '';
        const added = prompt + gap + tag.tag + (tag.activation ? ` ${tag.activation}` : '');
        return {text: added, end: added.length};
    }

    function addNegative(tab, negative) {
        const area = negative && app().querySelector(`#${tab}_neg_prompt textarea`);
        if (area && !area.value.includes(negative)) setText(area, area.value ? `${area.value} ${negative}` : negative);
    }

    async function copyTag(about) {
        try {
            await copyText((await call('prompt_tag', about)).tag);
        } catch (error) {
            complain(error);
        }
    }

    async function copyText(text) {
        try {
            await navigator.clipboard.writeText(text);
            toast(t('Copied: {text}', {text}));
        } catch (error) {
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

    /* A host draws all its cards anew at each refresh, and drops one that is asked for while another is under way: so
       they are asked for one at a time, and again where the cards do not show yet what was made or taken away. */
    const redraw = {timer: null, tries: 0};
    const MOST_REDRAWS = 5;

    function refreshCards() {
        redraw.tries = 0;
        if (!redraw.timer) redrawCards();
    }

    function redrawCards() {
        redraw.timer = null;
        const tabs = redraw.tries ? PROMPT_TABS.filter(cardsDiffer) : PROMPT_TABS;
        const hidden = tabs.map(tab => find(`${tab}_lora_extra_refresh_internal`)).filter(Boolean);
        if (!hidden.length || redraw.tries > MOST_REDRAWS) return;
        redraw.tries += 1;
        for (const one of hidden) one.dispatchEvent(new Event('click'));
        redraw.timer = setTimeout(redrawCards, 1000 * redraw.tries);
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
            tab: tabs.find(tab => /<(lora|lyco):/.test(promptArea(tab).value)) || tabs[0] || '', target: '', named: false, asked: 0,
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
        const mine = baking, asked = ++mine.asked;
        try {
            const found = await call('read_prompt', {prompt: mine.prompt.value});
            if (asked === mine.asked) showTags(mine, found);
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
        const {box, tab, prompt, name, target, run} = baking;
        const goal = target === 'panel' ? wanted() : target ? {target: {preset: target}} : {};
        run.disabled = true;
        try {
            const {job} = await call('bake', {prompt: prompt.value, name: name.value.trim(), ...goal, options: changedOptions()});
            state.mine.add(job);
            origins.set(job, {tab, prompt: prompt.value});
            jobToasts.set(job, toast(`${name.value}: ${t('queued')}`, {stays: true, tools: [button(t('Cancel'), () => cancel([job]))]}));
            box.close();
            await poll();
        } catch (error) {
            run.disabled = false;
            baking.tags.append(el('li', {class: 'resize-lora-fault', role: 'alert'}, error.message));
        }
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
        const order = {tuned: live ? 'loaded' : titles[0][0], base: live ? 'file' : second[0], target: '64'};
        const note = el('p', {class: 'resize-lora-quiet', id: 'resize_lora_extract_note', 'aria-live': 'polite'});
        const pick = (name, text, choices) => labelled(text, chooser(`resize_lora_extract_${name}`, text, choices, order[name], value => { order[name] = value; checkOrder(order); }));
        const targets = [['64', t('Rank {n}', {n: 64})], ['128', t('Rank {n}', {n: 128})], ...PRESETS.map(name => [name, t(PRESET_WORDS[name])]), ['panel', t('As set in the tab')]];
        order.name = el('input', {type: 'text', id: 'resize_lora_extract_name', placeholder: t('after both checkpoints')});
        order.encoders = el('input', {type: 'checkbox', id: 'resize_lora_extract_encoders', checked: true});
        order.run = button(t('Extract'), () => extractIt(order), {id: 'resize_lora_extract_run', class: 'resize-lora-button-plain resize-lora-primary'});
        order.note = note;
        order.box = dialog(t('Extract a LoRA'), [
            el('p', {class: 'resize-lora-quiet'}, t('One LoRA that leads from the second model to the first.'), ' ', live ? t('The loaded model beside its own file shows what was merged into it in memory; LoRAs of the prompt do not count.') : ''),
            pick('tuned', t('Model'), [...(live ? [['loaded', t('Loaded checkpoint')]] : []), ...titles]),
            pick('base', t('Compared with'), [...(live ? [['file', t('Its own file')]] : []), ...titles]),
            el('label', {class: 'resize-lora-check'}, order.encoders, t('Text encoders too')), note,
            el('div', {class: 'resize-lora-bake-row'}, pick('target', t('Target'), targets), labelled(t('Name'), order.name), order.run),
        ]);
        checkOrder(order);
    }

    /* Only what is in memory can differ from its own file. */
    function checkOrder(order) {
        const alone = order.tuned !== 'loaded' && order.base === 'file', same = order.tuned === order.base;
        say(order.note, alone ? t('Only the loaded checkpoint has a file of its own to be compared with; choose another model.') : same ? t('These are the same model.') : '');
        order.run.disabled = alone || same;
    }

    async function extractIt(order) {
        const rank = Number(order.target);
        const goal = order.target === 'panel' ? wanted() : {target: rank ? {rank} : {preset: order.target}};
        const name = order.name.value.trim();
        order.run.disabled = true;
        try {
            const {job} = await call('extract', {tuned: order.tuned, base: order.base, text_encoders: order.encoders.checked, ...(name ? {name} : {}), ...goal, options: changedOptions()});
            state.mine.add(job);
            jobToasts.set(job, toast(`${t('Extract a LoRA')}: ${t('queued')}`, {stays: true, tools: [button(t('Cancel'), () => cancel([job]))]}));
            order.box.close();
            await poll();
        } catch (error) {
            order.run.disabled = false;
            say(order.note, error.message);
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
        if (!card || (window.opts && window.opts.resize_lora_card_menu === false && !target.closest('.resize-lora-row'))) return;
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
        const made = file && file.ours;
        disable('compare', !can('generate') ? t('There is nothing here that makes pictures.') : !made ? t('This file was not made by Resize LoRA.') : !made.there ? t('The original, {name}, is not there.', {name: made.source}) : '');
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

    async function resizeNow(card, preset) {
        const note = toast(`${card.name}: ${t('queued')}`, {stays: true});
        try {
            await start();
            const options = changedOptions((state.hello.defaults || {}).options || {});
            const params = {names: [card.name], target: {preset}};
            const answer = await call('resize', Object.keys(options).length ? {...params, options} : params);
            if (answer.refused.length) throw new Error(answer.refused[0].message);
            const [job] = answer.jobs;
            state.mine.add(job);
            jobToasts.set(job, note);
            note.offer(button(t('Cancel'), () => cancel([job])));
            await poll();
        } catch (error) {
            note.say(`${card.name}: ${error.message}`);
            note.offer();
            note.leave();
        }
    }

    async function openInTab(name) {
        openTab('tab_resize_lora');
        try {
            await start();
            await readLibrary();
        } catch (error) {
            complain(error);
            return;
        }
        if (!state.shown.some(file => file.name === name)) clearFilter();
        state.selected = new Set([name]);
        state.cursor = Math.max(0, state.shown.findIndex(file => file.name === name));
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
        const idle = t('Where its dimensions are, what they hold, and where the bytes go.');
        parts.studyRun.disabled = !file || Boolean(file.problem) || Boolean(study.job);
        say(parts.studyTitle, study.job ? t('analysing…') : study.result ? study.result.name : idle);
    }

    async function askStudy() {
        try {
            const {job} = await call('spectra', {name: state.current});
            study.job = job;
            state.mine.add(job);
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
    function heatPicture({blocks, types, effective_rank: table, layers}, width) {
        const left = 58, top = 74, row = 21, column = Math.min(84, (Math.max(width, 480) - left) / types.length);
        const values = table.flat().filter(value => value != null);
        const most = Math.max(...values, 1e-9), least = Math.min(...values, most);
        const tint = value => 4 + 56 * (value - least) / Math.max(most / 10, most - least);  // equal ranks look equal
        const cells = table.flatMap((line, i) => line.map((value, j) => value == null ? null : draw('g', null,
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

    /* The panel stands beside Gradio's own block, where neither its styles nor its updates reach it. */
    // Start -------------------------------------------------------------------------------------------------------

    function onKey(event) {
        if (event.key === 'Escape' && menu) {
            closeMenu();
            event.stopPropagation();
            return;
        }
        const popup = document.querySelector('.global-popup');
        if (!parts.run || !root.offsetParent || document.querySelector('dialog[open]') || (popup && popup.style.display !== 'none')) return;
        /* A host's page presses the run button at Ctrl+Enter by itself; at Esc it would press only a button of its own. */
        if (event.key === 'Escape') parts.cancel.click();
        else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !window.get_uiCurrentTabContent) parts.run.click();
    }

    function mount() {
        const place = find('resize_lora_app');
        if (!place || !app().querySelector('#resize_lora_reply textarea') || (root && root.isConnected)) return;
        if (root) {
            place.after(root);
            return;
        }
        root = el('div', {id: 'resize_lora_root', class: 'resize-lora'}, el('p', {class: 'resize-lora-quiet'}, t('Reading…')));
        place.after(root);
        place.classList.add('resize-lora-ready');
        new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting)) look(); }).observe(root);
    }

    /* The tab came into view: what the host holds may have changed meanwhile. */
    function look() {
        start().then(poll).catch(error => root.replaceChildren(
            el('p', {class: 'resize-lora-fault', role: 'alert'}, error.message), button(t('Try again'), look)));
    }

    window.resizeLoraCall = call;
    document.addEventListener('contextmenu', onContextMenu, true);
    document.addEventListener('keydown', onKey, true);
    document.addEventListener('pointerdown', event => { if (menu && !menu.contains(event.target)) closeMenu(); }, true);
    for (const moved of ['wheel', 'touchmove']) {
        document.addEventListener(moved, event => { if (menu && !menu.contains(event.target)) closeMenu(); }, {capture: true, passive: true});
    }
    window.addEventListener('blur', closeMenu);
    setInterval(mount, 400);
    mount();
})();
