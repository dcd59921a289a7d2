/* *Replace by …* in the menu of a card: a run over one LoRA. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.replacing) return;

    const {t} = resizeLora.words;
    const {button} = resizeLora.elements;
    const {keep, kept} = resizeLora.storage;
    const {PRESET_WORDS, state} = resizeLora.model;
    const {showError, toast} = resizeLora.dialogs;
    const {start} = resizeLora.session;
    const {firstPreset, targetOf} = resizeLora.shrinkPlan;
    const {askToNotify, startRun} = resizeLora.runs;

    const AT_ONCE = 'replace-at-once';

    function isAtOnce() {
        return kept(AT_ONCE) === true;
    }

    function setAtOnce(on) {
        keep(AT_ONCE, on);
    }

    /* Replaces the LoRA of a card: after the dialog, or at once where that was chosen in it. */
    async function replaceCard(name) {
        if (!isAtOnce()) {
            await resizeLora.shrink.openShrink('all', name);
            return;
        }
        askToNotify();
        const note = toast(t('{name} is being replaced…', {name}));
        const ask = () => {
            setAtOnce(false);
            note.close();
        };
        note.offer(button(t('Ask again next time'), ask, {'data-action': 'ask-again'}));
        try {
            await start();
            await startRun({names: [name], ...targetOf(firstPreset(name))});
        } catch (error) {
            note.close();
            showError(error);
        }
    }

    /* The entry of the menu of a card. */
    function replaceText() {
        const preset = t(PRESET_WORDS[((state.hello || {}).defaults || {}).preset || 'medium']);
        return isAtOnce() ? t('Replace by {preset}', {preset}) : t('Replace by {preset}…', {preset});
    }

    resizeLora.replacing = {isAtOnce, replaceCard, replaceText, setAtOnce};
})((window.resizeLora = window.resizeLora || {}));
