/* Elements of the page, and those of the host's page. Text is set as text, never as HTML. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.elements) return;

    const {nameParts} = resizeLora.text;

    const SVG = 'http://www.w3.org/2000/svg';

    /* Sets attributes and properties, listeners under `on`, and appends children; null and false are left out. */
    function fill(element, attributes, children) {
        for (const [name, value] of Object.entries(attributes || {})) {
            if (value != null && value !== false) setAttribute(element, name, value);
        }
        element.append(...children.flat(Infinity).filter(child => child != null && child !== false));
        return element;
    }

    function setAttribute(element, name, value) {
        const isProperty = element instanceof HTMLElement && name in element && typeof value !== 'string';
        if (name === 'on') Object.entries(value).forEach(([event, work]) => element.addEventListener(event, work));
        else if (isProperty) element[name] = value;
        else element.setAttribute(name, value === true ? '' : String(value));
    }

    function el(tag, attributes, ...children) {
        return fill(document.createElement(tag), attributes, children);
    }

    function draw(tag, attributes, ...children) {
        return fill(document.createElementNS(SVG, tag), attributes, children);
    }

    function button(text, work, attributes) {
        const own = {type: 'button', class: 'resize-lora-button-plain', on: {click: work}};
        return el('button', {...own, ...attributes}, text);
    }

    function primaryButton(text, work, attributes) {
        return button(text, work, {class: 'resize-lora-button-plain resize-lora-primary', ...attributes});
    }

    function input(type, id, attributes) {
        return el('input', {type, id, ...attributes});
    }

    /* A checkbox with its label; `work` gets whether it is checked. */
    function checkbox(id, text, checked, work) {
        const box = input('checkbox', id, {checked, on: {change: () => work(box.checked)}});
        return el('label', {class: 'resize-lora-check'}, box, text);
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

    /* A name that keeps its end where there is no room for all of it. */
    function nameText(name, attributes) {
        const own = {class: 'resize-lora-name', ...attributes};
        const element = el('span', own, el('span', {class: 'resize-lora-name-head'}), el('span'));
        setName(element, name);
        return element;
    }

    function setName(element, name) {
        if (element.title !== name) element.title = name;
        const parts = nameParts(name);
        [...element.children].forEach((part, i) => setText(part, parts[i]));
    }

    function quiet(text, attributes) {
        return el('span', {class: 'resize-lora-quiet', ...attributes}, text);
    }

    function quietLine(text) {
        return el('p', {class: 'resize-lora-quiet'}, text);
    }

    function head(title, ...rest) {
        return el('div', {class: 'resize-lora-results-head'}, el('strong', null, title), rest);
    }

    function section(label, name, attributes) {
        const own = {id: `resize_lora_${name}`, class: `resize-lora-box resize-lora-${name}`, 'aria-label': label};
        return el('section', {...own, ...attributes});
    }

    function hostRoot() {
        return window.gradioApp ? window.gradioApp() : document;
    }

    /* A setting of the host's page. Forge Neo declares `opts` with let, so it is not a property of window there. */
    function hostOption(name) {
        const all = typeof opts !== 'undefined' ? opts : window.opts;
        return all ? all[name] : undefined;
    }

    function byId(id) {
        return hostRoot().querySelector(`#${id}`) || document.getElementById(id);
    }

    /* Writes text only where it changed, because hosts observe every change of the page. */
    function setText(element, text) {
        if (element.textContent !== text) element.textContent = text;
    }

    function show(element, shown) {
        if (element.hidden === shown) element.hidden = !shown;
    }

    /* A function that runs `work` once it was not called for `wait` milliseconds. */
    function later(work, wait) {
        let timer = 0;
        return (...values) => {
            clearTimeout(timer);
            timer = setTimeout(work, wait, ...values);
        };
    }

    function pause(wait) {
        return new Promise(resolve => setTimeout(resolve, wait));
    }

    function typeInto(area, text) {
        area.value = text;
        area.dispatchEvent(new Event('input', {bubbles: true}));
    }

    function download(address, name) {
        el('a', {href: address, download: name}).click();
    }

    resizeLora.elements = {
        button,
        byId,
        checkbox,
        chooser,
        download,
        draw,
        el,
        head,
        hostOption,
        hostRoot,
        input,
        labelled,
        later,
        nameText,
        pause,
        primaryButton,
        quiet,
        quietLine,
        section,
        setName,
        setText,
        show,
        typeInto,
    };
})((window.resizeLora = window.resizeLora || {}));
