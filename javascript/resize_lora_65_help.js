/* The keys of the tab. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.help) return;

    const {t} = resizeLora.words;
    const {el} = resizeLora.elements;
    const {dialog} = resizeLora.dialogs;

    function openHelp() {
        const keys = [
            ['↑ ↓ Page↑ Page↓ Home End', t('Move in the library')],
            ['← →', t('Hide or show the versions of a LoRA')],
            ['Space', t('Select or deselect a LoRA')],
            ['Enter', t('Select only this LoRA')],
            ['Shift+↑ Shift+↓', t('Extend the selection')],
            ['Ctrl+A', t('Select all that match')],
            ['Ctrl+Enter', t('Resize')],
            ['Esc', t('Cancel the jobs of this page (Esc)')],
            ['?', t('Show these keys')],
        ];
        const mouse = [
            [t('Drag'), t('Select several LoRAs')],
            [t('Right-click'), t('Open the menu of a LoRA')],
            [t('Hover over a preview'), t('Show it large')],
        ];
        const row = ([key, text]) => [el('dt', null, el('kbd', null, key)), el('dd', null, text)];
        dialog(t('Keys'), el('dl', {class: 'resize-lora-keys', id: 'resize_lora_keys'}, [...keys, ...mouse].map(row)));
    }

    resizeLora.help = {openHelp};
})((window.resizeLora = window.resizeLora || {}));
