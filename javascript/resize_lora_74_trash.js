/* The trash of resized files. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.trash) return;

    const {size} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {button, el, quietLine} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {call} = resizeLora.wire;
    const {dialog, showError} = resizeLora.dialogs;
    const {moveResult} = resizeLora.results;

    function trashButton() {
        const values = {size: size(state.trash.bytes)};
        const words = plural(state.trash.items, 'Trash: {n} file, {size}', 'Trash: {n} files, {size}', values);
        return button(words, openTrash, {id: 'resize_lora_trash', 'data-action': 'trash'});
    }

    async function openTrash() {
        try {
            const {items} = await call('trash');
            showTrash(items);
        } catch (error) {
            showError(error);
        }
    }

    function showTrash(items) {
        const leave = async (method, what) => {
            await moveResult(method, what);
            box.close();
        };
        const rows = items.map(item => trashRow(item, leave));
        const content = rows.length ? [...rows, emptyButton(items, leave)] : [quietLine(t('The trash is empty.'))];
        const box = dialog(t('Trash'), content);
    }

    function trashRow(item, leave) {
        const name = el('span', {class: 'resize-lora-cut resize-lora-result-name'}, item.name);
        const restore = () => leave('restore', {item: item.item});
        const own = {'aria-label': `${t('Restore')}: ${item.name}`, 'data-action': 'restore'};
        return el(
            'div',
            {class: 'resize-lora-result', 'data-key': item.item},
            name,
            el('span', null, size(item.bytes)),
            button(t('Restore'), restore, own),
        );
    }

    /* Pressed once, it asks for confirmation in its place. */
    function emptyButton(items, leave) {
        const own = {
            class: 'resize-lora-button-plain resize-lora-danger',
            id: 'resize_lora_empty_sure',
            'data-action': 'empty-sure',
        };
        const sure = button(t('Delete'), () => leave('empty_trash', {confirm: true}), own);
        const words = plural(items.length, 'Permanently delete {n} file?', 'Permanently delete {n} files?');
        const question = el('span', null, words, ' ', sure);
        const empty = button(t('Empty the trash…'), () => empty.replaceWith(question), {
            id: 'resize_lora_empty',
            'data-action': 'empty',
        });
        return empty;
    }

    resizeLora.trash = {trashButton};
})((window.resizeLora = window.resizeLora || {}));
