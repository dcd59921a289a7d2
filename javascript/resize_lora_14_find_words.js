/* What *Find the smallest* asks for and reports, as text and figures. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.findWords) return;

    const {round, size} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {shareText} = resizeLora.effect;

    const STEPS = 5; // of the search between two sizes
    const LAST_STEPS = 2; // those that are repeated with all seeds
    const NOISE = 1; // an image that is made twice
    const UNUSED = 1; // by a fit, for its comparison
    const TRIGGER = '{trigger}'; // the server puts the trigger words of a LoRA there
    const TAG = /<(?:lora|lyco):([^:>]+)(?::[^>]*)?>/gi;

    /* About how many images a search makes: original and without for each seed, two of each step, then the rest. A fit
     * to `fitted` images needs one more for each step. */
    function aboutImages(seeds, fitted = 0) {
        const first = Math.min(2, seeds);
        const fit = fitted ? fitted + UNUSED + STEPS : 0;
        return 2 * seeds + NOISE + STEPS * first + LAST_STEPS * (seeds - first) + fit;
    }

    /* How many images a fit to `fitted` images makes for one file. */
    function fitImages(fitted) {
        return fitted + UNUSED + 1;
    }

    /* Seconds of so many images, from the seconds per pixel and step; null where that or a setting is unknown. */
    function imageSeconds(images, {width, height, steps}, pace) {
        return pace != null && width && height && steps ? images * width * height * steps * pace : null;
    }

    /* The image in progress of a job, not those that are done. */
    function imageText(job) {
        const values = {n: Math.min(job.done + 1, job.total), all: job.total};
        if (!job.total) return '';
        return job.kind === 'compare' ? t('image {n} of {all}', values) : t('image {n} of about {all}', values);
    }

    /* The share that a percentage in a field asks for; null where it is not one from 50 to 99.9. */
    function targetOf(text) {
        const number = String(text).trim() === '' ? NaN : Number(text);
        return number >= 50 && number <= 99.9 ? round(number / 100, 6) : null; // 99.9 / 100 is more than 0.999
    }

    function keptText({kept, worst}) {
        if (kept == null) return '';
        const values = {kept: shareText(kept), worst: shareText(worst)};
        return worst == null
            ? t("keeps {kept} of the LoRA's effect", values)
            : t("keeps {kept} of the LoRA's effect (worst image {worst})", values);
    }

    function seedsText(seeds) {
        return plural(seeds, '{n} seed', '{n} seeds');
    }

    function trialText(trial) {
        return [size(trial.bytes), keptText(trial)].filter(Boolean).join(' · ');
    }

    /* The trials that are known with one more: each size once, with its last figures; the largest first. */
    function withTrial(trials, trial) {
        const others = trials.filter(one => one.bytes !== trial.bytes);
        return [...others, trial].sort((one, other) => other.bytes - one.bytes);
    }

    /* Whether a prompt has a tag with one of these names. */
    function hasTag(prompt, names) {
        return [...prompt.matchAll(TAG)].some(([, name]) => names.includes(name));
    }

    /* A prompt for several LoRAs: without tags, and with a place for the trigger words of each. */
    function templateOf(prompt) {
        const rest = prompt.replace(TAG, '').replace(/\s+/g, ' ');
        const words = rest.replace(/(?:\s*,)+/g, ',').replace(/^[\s,]+|[\s,]+$/g, '');
        if (words.includes(TRIGGER)) return words;
        return words ? `${TRIGGER}, ${words}` : TRIGGER;
    }

    /* The settings of the images in a line; those that the host did not name are left out. */
    function settingsText(settings) {
        const {width, height, steps, cfg_scale: guidance, sampler_name: sampler, seed} = settings;
        const isRandom = seed == null || seed < 0;
        const parts = [
            width && height && `${width}×${height}`,
            steps && t('{n} steps', {n: steps}),
            sampler,
            guidance != null && `CFG ${guidance}`,
            isRandom ? t('random seed') : t('seed {n}', {n: seed}),
        ];
        return parts.filter(Boolean).join(' · ');
    }

    resizeLora.findWords = {
        aboutImages,
        fitImages,
        hasTag,
        imageSeconds,
        imageText,
        keptText,
        seedsText,
        settingsText,
        targetOf,
        templateOf,
        trialText,
        withTrial,
    };
})((window.resizeLora = window.resizeLora || {}));
