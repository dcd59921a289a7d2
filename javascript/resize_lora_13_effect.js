/* How much of a LoRA's effect on images a file keeps, and how it was fitted to images, as text. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.effect) return;

    const {count, percent, round} = resizeLora.numbers;
    const {t} = resizeLora.words;

    const SEEDS = [1, 2, 4]; // numbers of images to choose from
    const MOST = 0.999; // of images that are not equal

    /* A share of the effect: 100 % only for equal images, and 0 % where nothing is kept. */
    function shareText(share) {
        return percent(share < 1 ? Math.max(0, Math.min(share, MOST)) : 1);
    }

    /* The figure that was kept with a file, `isWhole` with that of the worst image; empty where there is none. */
    function effectText(effect, {isWhole = false} = {}) {
        if (!effect) return '';
        const values = {kept: shareText(effect.kept), worst: shareText(effect.worst)};
        return isWhole && effect.seeds > 1
            ? t('Effect kept: {kept}, worst image {worst}', values)
            : t('Effect kept: {kept}', values);
    }

    /* The images that the figure is of. */
    function effectHint(effect) {
        if (!effect) return '';
        const images = t('Images: {n}', {n: count(effect.seeds)});
        const size = `${effect.width}×${effect.height}`;
        const settings = [effect.sampler, effect.steps && t('{n} steps', {n: count(effect.steps)}), size];
        const worst = t('Worst image: {worst}', {worst: shareText(effect.worst)});
        return [worst, images, ...settings].filter(Boolean).join(' · ');
    }

    /* The images that a file was fitted to; empty where it was not. */
    function fitText(fit) {
        if (!fit) return '';
        if (!fit.layers) return t('Fitted to images without a gain: plain truncation is kept');
        return t('Fitted to images: {n} layers', {n: count(fit.layers)});
    }

    /* The images of a fit, and the errors with and without it. */
    function fitHint(fit) {
        if (!fit) return '';
        const images = [t('Images: {n}', {n: count(fit.images)}), t('{n} steps', {n: count(fit.steps)})];
        return [...images, ...(fit.layers ? fit.errors.map(errorText) : [])].join(' · ');
    }

    function errorText({model, plain, fitted}) {
        const figures = {model, plain: round(plain, 3), fitted: round(fitted, 3)};
        if (fitted < plain) return t('{model}: error {fitted} instead of {plain}', figures);
        return t('{model}: plain truncation is kept, with error {plain}', figures);
    }

    /* The lines of the records in a file: what it is, and the images that it was measured on. */
    function recordLines({effect, fit, unreadable}) {
        const lines = [
            [effectText(effect), effectHint(effect)],
            [fitText(fit), fitHint(fit)],
        ].map(parts => parts.filter(Boolean).join(' · '));
        const bad = unreadable.length > 0 && t('A record of images in this file is unreadable.');
        return [...lines, bad].filter(Boolean);
    }

    resizeLora.effect = {SEEDS, effectHint, effectText, recordLines, shareText};
})((window.resizeLora = window.resizeLora || {}));
