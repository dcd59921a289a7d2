/* The state of the page: all of it, with its defaults. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.model) return;

    const {FILTER} = resizeLora.filter;

    const PRESETS = ['high', 'medium', 'low'];

    const PRESET_WORDS = {high: 'High', medium: 'Medium', low: 'Low'};

    const DEFAULTS = {
        dtype: '16',
        naming: 'same',
        suffix: '_{size}',
        folder: '',
        sidecars: true,
        scores: 'fro_lora=1,min_rank=1',
        rescale: 1,
        reference: 'loaded',
    };

    const ENDED = ['done', 'failed', 'cancelled'];

    const state = {
        // The server
        hello: null, // its answer to `hello`
        session: null, // its session; ids mean nothing in another one
        revision: null, // of the last status
        busy: null, // why queued jobs wait, or null
        secondsLeft: null,
        reference: null, // the checkpoint that the host has loaded
        wire: {lastId: Math.floor(Math.random() * 1e9), last: Promise.resolve()},
        pending: {start: null, restart: null, library: null, plan: false, order: false}, // calls in progress
        following: {on: false, again: false, silent: null}, // the loop that asks for the status

        // The library
        files: new Map(), // name -> file
        shown: [], // the files that match the filter, sorted
        rows: [], // of the library, see filter.rowsOf
        unfolded: new Set(), // names of originals whose versions are shown
        library: {revision: null, complete: false, known: 0, total: 0, roots: []},
        filter: {...FILTER},
        isLarge: false, // large previews in the library
        selected: new Set(), // names
        leftOut: 0, // resized files that *Select all* did not select
        current: null, // the name of the LoRA that the target shows
        cursor: 0, // index of a row
        cursorKey: null, // of this row
        families: new Map(), // name of an original -> the files made from it
        details: new Map(), // name -> what its sidecars say
        previews: new Map(), // name -> address of an image
        previewsAsked: new Set(),

        // The target
        analyses: new Map(), // name -> analysis
        analysing: new Map(), // name -> id of a job
        analysisError: '',
        analysedFor: '', // the choice for which the current LoRA was analysed once more
        target: {mode: 'preset', preset: 'medium', size: 50, retention: 0.92, rank: 16, recipe: ''},
        meaning: 'size', // of the slider
        options: {...DEFAULTS},
        fit: false, // new files are fitted to images of the person's prompt
        withBaseline: true, // comparisons also render without the LoRA
        comparedSeeds: 1, // images of a comparison with each file: 1, 2 or 4
        recipe: {text: null, ok: false}, // what the server last answered about the text in the recipe field
        isNumberInvalid: false,
        plan: null, // {key, result} of the last plan
        refusedPlan: null, // {key, message}
        epoch: 0, // counts events that outdate figures: another analysis, another loaded checkpoint
        figuresOf: null, // the LoRA whose figures are shown
        study: {result: null, job: null, key: ''},

        // Jobs and results
        jobs: new Map(), // id -> job
        ownJobs: new Set(), // ids of jobs that this page started
        orders: new Map(), // id -> {jobs, params} of the resize that it belongs to
        stopping: new Set(), // orders that were cancelled and have jobs that have not ended
        toasts: new Map(), // id -> the toast that shows the job
        results: [],
        moreResults: false,
        shownResults: 40,
        foldedRuns: new Map(), // batch -> whether its results are folded, as the user chose
        trash: {items: 0, bytes: 0},
        wasHere: false, // this browser has resized before
        bakedFrom: new Map(), // id of a bake -> {tab, prompt}
        trials: new Map(), // id of a search for the smallest file -> what it has measured
        ending: new Set(), // ids of searches that end after the current image

        // Runs over a library
        runs: {
            list: [], // newest first
            items: new Map(), // id of a run -> its files
            open: new Set(), // ids of runs that are unfolded
            page: null, // id of the run whose report is open
            awaited: new Set(), // ids of runs whose end is announced
            showsAll: false,
            last: -Infinity, // when the list was read
            timer: null,
        },
        archive: {bytes: 0, entries: 0}, // of originals
        shrink: {
            // the choices in the dialog *Shrink library*, and its plans
            isOpen: false,
            scope: 'all',
            name: null, // the only LoRA that it is about, or null
            preset: 'medium', // or 'panel', as the tab is set, or 'images'
            images: null, // what is asked about images, see imageForm
            leastGain: 10, // percent
            floor: null, // percent, or null
            again: false,
            folders: new Set(), // excluded
            families: new Set(), // excluded
            originals: 'archive',
            isSure: false, // that originals are not kept
            plans: new Map(), // what was asked, as JSON -> plan
            lastPlan: null,
            isOld: false, // the plans are out of date
            isReading: false,
        },

        // What is open
        root: null, // the element that holds the tab
        baking: null, // the parts of the dialog *Bake my prompt*
        finding: null, // the search for the smallest file whose dialog is open
        menu: null, // the menu of a card
        redraw: {timer: null, last: -Infinity, tries: 0, isDue: false}, // of the host's cards
    };

    resizeLora.model = {DEFAULTS, ENDED, PRESETS, PRESET_WORDS, state};
})((window.resizeLora = window.resizeLora || {}));
