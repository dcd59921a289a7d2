/* Buttons that ask for confirmation in their place. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.confirm) return;

    const {t} = resizeLora.words;
    const {button, el} = resizeLora.elements;

    /* A button that shows a question in its place when it is pressed. `ask()` returns the question, or a promise of it;
       null where there is nothing to confirm. `sure` is the text of the button that runs `work`. */
    function confirmButton(text, {ask, sure, work, danger, ...attributes}) {
        const open = async () => {
            const question = await ask();
            if (question == null || !made.isConnected) return;
            const asked = questionLine(question, sure, danger, {work, leave: () => asked.replaceWith(made)});
            made.replaceWith(asked);
            asked.querySelector('[data-action="no"]').focus();
        };
        const made = button(text, open, attributes);
        return made;
    }

    function questionLine(question, sure, danger, {work, leave}) {
        const look = `resize-lora-button-plain${danger ? ' resize-lora-danger' : ''}`;
        const yes = () => {
            leave();
            work();
        };
        return el(
            'span',
            {class: 'resize-lora-question', role: 'group', 'aria-label': question},
            el('span', null, question),
            button(sure, yes, {class: look, 'data-action': 'yes'}),
            button(t('Cancel'), leave, {'data-action': 'no'}),
        );
    }

    resizeLora.confirm = {confirmButton};
})((window.resizeLora = window.resizeLora || {}));
