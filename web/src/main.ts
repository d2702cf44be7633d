import { mount } from "svelte";
import "./style.css";
import App from "./lab/App.svelte";

mount(App, { target: document.getElementById("app")! });
