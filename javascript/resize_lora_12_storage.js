/* What the browser keeps for the next visit. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.storage) return;

    const {parsed} = resizeLora.text;

    const PREFIX = 'resize-lora-';

    /* The value that an earlier visit kept; null where there is none, or the browser keeps nothing. */
    function kept(name) {
        try {
            return parsed(localStorage.getItem(PREFIX + name) || '');
        } catch {
            return null;
        }
    }

    function keep(name, value) {
        try {
            localStorage.setItem(PREFIX + name, JSON.stringify(value));
        } catch (error) {
            console.warn('Resize LoRA: no local storage', error);
        }
    }

    resizeLora.storage = {keep, kept};
})((window.resizeLora = window.resizeLora || {}));
