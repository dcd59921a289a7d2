/* A page as the hosts have it, made from what they show: tabs, prompts, card pages, and a menu of another extension. */
() => {
    const make = (tag, attributes, ...children) => {
        const made = document.createElement(tag);
        Object.entries(attributes || {}).forEach(([name, value]) => made.setAttribute(name, value));
        made.append(...children);
        return made;
    };
    const buttons = path => make('div', {class: 'button-row'},
        make('div', {class: 'copy-path-button card-button', 'data-clipboard-text': path}),
        make('div', {class: 'resize-lora-button card-button', onclick: "resizeLoraFromCard(event, 'txt2img')"}));
    const card = name => make('div', {class: 'card', 'data-name': name, onclick: 'window.cardClicks = (window.cardClicks || 0) + 1'},
        make('img', {class: 'preview', width: 60, height: 60}), buttons(`/abs/${name}.safetensors`),
        make('div', {class: 'actions'}, make('span', {class: 'name'}, name), make('span', {class: 'description'}, 'about it')));
    const tree = name => make('li', {'data-tree-entry-type': 'file'}, make('div', {class: 'tree-list-content tree-list-content-file', 'data-path': `/abs/${name}.safetensors`},
        make('span', {class: 'tree-list-item-label'}, name), buttons(`C:\\loras\\${name}.safetensors`)));
    const names = window.hostNames;
    const tab = id => make('div', {id: `tab_${id}`, class: 'tabitem'},
        make('div', {id: `${id}_prompt`}, make('textarea')), make('div', {id: `${id}_neg_prompt`}, make('textarea')),
        make('button', {id: `${id}_generate`, onclick: `window.generated = '${id}'`}, 'Go'),
        make('button', {id: `${id}_lora_extra_refresh_internal`, onclick: `window.refreshed = [...(window.refreshed || []), '${id}']`}),
        make('div', {id: `${id}_lora_tree`}, ...names.map(tree)),
        make('div', {id: `${id}_lora_cards`, class: 'extra-network-cards'}, ...names.map(card)),
        make('div', {id: `${id}_checkpoints_cards`}, card('a checkpoint')));
    const navigation = make('div', {class: 'tab-nav'}, ...['txt2img', 'img2img', 'resize_lora'].map(id => make('button', {onclick: `window.opened = '${id}'`}, 'x')));
    document.body.prepend(make('div', {id: 'tabs'}, navigation, tab('txt2img'), tab('img2img'), make('div', {id: 'tab_resize_lora', class: 'tabitem'})));
    document.addEventListener('contextmenu', () => { window.otherMenus = (window.otherMenus || 0) + 1; });
};
