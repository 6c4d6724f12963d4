// Dark or light as it was chosen on this device, before anything is painted.

document.documentElement.dataset.theme = localStorage.getItem("pawlens.theme") ?? "";
